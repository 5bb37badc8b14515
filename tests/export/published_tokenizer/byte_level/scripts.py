"""A sentence in each of many scripts, and a vocabulary in tekken's format that is trained on them."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tramontane.export.published_tokenizer.byte_level.bpe import bytes_of
from tramontane.export.published_tokenizer.byte_level.pre_tokenizers import TEKKEN, split_by

SENTENCES = {
    "Latin": "Good morning! The eBay parcel of 250 mL arrived, and it's at pH 7.",
    "Latin, accents": "Là-bas, l'été dernier, Zoë a mangé une crêpe; Ærø, łódź, đường, İğne.",
    "Cyrillic": "Сегодня утром мы пили чай, а потом пошли в Москву. Ґанок, љубав.",
    "Greek": "Το πρωί πίνουμε καφέ δίπλα στη θάλασσα. ΑΒΓ ἀρχή.",
    "Arabic": "في الصباح نشرب القهوة بجانب البحر، ثم نقرأ ١٢٣ صفحة. مُعَلِّم",
    "Persian and Urdu": "صبح‌ها چای می‌نوشیم. ہم صبح چائے پیتے ہیں۔ ۴۵",
    "Hebrew": "בבוקר אנחנו שותים קפה ליד הים. שָׁלוֹם",
    "Devanagari": "सुबह हम समुद्र के किनारे चाय पीते हैं। १२३",
    "Bengali": "সকালে আমরা নদীর ধারে চা খাই। ১২৩",
    "Gurmukhi": "ਸਵੇਰੇ ਅਸੀਂ ਚਾਹ ਪੀਂਦੇ ਹਾਂ।",
    "Gujarati": "સવારે અમે ચા પીએ છીએ.",
    "Tamil": "காலையில் நாங்கள் கடற்கரையில் தேநீர் குடிக்கிறோம்.",
    "Telugu": "ఉదయం మేము సముద్రం పక్కన టీ తాగుతాము.",
    "Kannada": "ಬೆಳಿಗ್ಗೆ ನಾವು ಕಡಲ ತೀರದಲ್ಲಿ ಚಹಾ ಕುಡಿಯುತ್ತೇವೆ.",
    "Malayalam": "രാവിലെ ഞങ്ങൾ കടൽത്തീരത്ത് ചായ കുടിക്കുന്നു.",
    "Sinhala": "උදේ අපි මුහුද අසල තේ බොමු.",
    "Thai": "ตอนเช้าเราดื่มกาแฟริมทะเล ๑๒๓",
    "Lao": "ຕອນເຊົ້າພວກເຮົາດື່ມກາເຟ.",
    "Khmer": "ពេលព្រឹក យើងផឹកកាហ្វេក្បែរសមុទ្រ។",
    "Burmese": "မနက်ခင်းမှာ ကျွန်တော်တို့ လက်ဖက်ရည်သောက်တယ်။",
    "Tibetan": "ཞོགས་པར་ང་ཚོས་ཇ་འཐུང་གི་ཡོད།",
    "Georgian": "დილით ზღვასთან ყავას ვსვამთ. ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ",
    "Armenian": "Առավոտյան մենք սուրճ ենք խմում ծովի մոտ։",
    "Ethiopic": "ጠዋት ከባሕር አጠገብ ቡና እንጠጣለን። ፩፪፫",
    "Han": "早上我們在海邊喝茶，然後看了三本書。简体字也一样。",
    "Kana": "朝、わたしたちは海のそばでコーヒーを飲みます。ﾊﾝｶｸ",
    "Hangul": "아침에 우리는 바닷가에서 커피를 마십니다. ㅋㅋ",
    "Cherokee": "ᏌᎣᏂᏗ ᎣᏍᏓ ᏑᎾᎴ, ꭰꮃ.",
    "Mongolian": "ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ",
    "Runes and Gothic": "ᚠᛇᚻ᛫ᛒᛦᚦ 𐌰𐍄𐍄𐌰",
    "Signs": "∑ᵢ xᵢ² ≤ ∞ → ½ ⅷ №5 €9.99 🙂👩\u200d🚀🇩🇪 a\u0308\u0301//\n\n  x\t\r\n",
}
START = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
NUM_SPECIAL = 40


@cache
def trained() -> tuple[bytes, ...]:
    """Tokens by rank: every byte, then what the sentences teach."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_by(TEKKEN)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES.values(), trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda token: token[1])
    learnt = [bytes_of(text) or b"" for text, _ in by_id if len(text) > 1]
    return (*(bytes([byte]) for byte in range(256)), *learnt)


def tekken(
    version: str = "v3", special: tuple[str, ...] | None = None, unused: int = 5, **config: Any
) -> dict[str, Any]:
    """The content of a ``tekken.json``; ``unused`` tokens lie beyond its ``default_vocab_size``."""
    tokens = trained()
    content: dict[str, Any] = {
        "config": {
            "pattern": TEKKEN,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) - unused + NUM_SPECIAL,
            "default_num_special_tokens": NUM_SPECIAL,
            "version": version,
            **config,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
    }
    if special is not None:
        content["special_tokens"] = [
            {"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special)
        ]
    return content
