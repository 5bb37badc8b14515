// Tokenizes prompts and detokenizes a stream of tokens, one whole character at a time.

// The byte that each character of a byte-level vocabulary stands for: printable bytes are themselves,
// the others follow from U+0100 on. Source: openai/gpt-2, src/encoder.py, bytes_to_unicode.
const BYTES = new Map();
for (let byte = 0, others = 0; byte < 0x100; byte += 1) {
  const isPrintable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  BYTES.set(String.fromCodePoint(isPrintable ? byte : 0x100 + others++), byte);
}

/**
 * The artifact's tokenizer, over @huggingface/tokenizers.
 *
 * As in the driver, special tokens get names that no text has, so that text of users is never read
 * as one; the package has no option for that.
 */
export class Text {
  #tokenizer;
  #whole = null; // reads special tokens in a text; made at its first use
  #makeWhole;
  #vocabulary;
  #isByteLevel;
  #added = new Map(); // whether each added token is special, by id

  /**
   * @param {Function} Tokenizer the class of @huggingface/tokenizers
   * @param {object[]} files tokenizer.json and tokenizer_config.json, parsed
   * @param {object} vocabulary the manifest's
   */
  constructor(Tokenizer, [tokenizer, config], vocabulary) {
    this.#tokenizer = new Tokenizer(renamed(tokenizer), config);
    this.#makeWhole = () => new Tokenizer(tokenizer, config);
    this.#vocabulary = vocabulary;
    const { type, decoders = [] } = tokenizer.decoder ?? {};
    this.#isByteLevel = [type, ...decoders.map((one) => one.type)].includes("ByteLevel");
    for (const [id, { special }] of Object.entries(config.added_tokens_decoder ?? {})) {
      this.#added.set(Number(id), special);
    }
    for (const { id, special } of tokenizer.added_tokens ?? []) this.#added.set(id, special);
  }

  /**
   * Tokens of a prompt that begins a sequence, after the start token if the model has one.
   *
   * @param {string} prompt
   * @param {object} [options]
   * @param {boolean} [options.allowSpecial] text that spells a special token becomes that token, as
   *   chat templates need; otherwise it is encoded as any other text
   */
  encode(prompt, { allowSpecial = false } = {}) {
    if (allowSpecial) this.#whole ??= this.#makeWhole();
    const tokenizer = allowSpecial ? this.#whole : this.#tokenizer;
    const { ids } = tokenizer.encode(prompt, { add_special_tokens: false });
    const { add_bos_token, bos_token_id } = this.#vocabulary;
    return add_bos_token ? [bos_token_id, ...ids] : ids;
  }

  /** Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD. */
  decode(ids) {
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    const written = ids.filter((id) => this.hasText(id));
    return written.length ? this.#tokenizer.decode(written, options) : "";
  }

  /** Whether a token is in a text: neither special, nor one that only the model has. */
  hasText(id) {
    return !this.#added.get(id) && this.#tokenizer.id_to_token(id) !== undefined;
  }

  /** The bytes that a piece such as <0xE2> or âĤ stands for; null for one of whole characters. */
  bytes(id) {
    if (this.#added.has(id)) return null;
    const piece = this.#tokenizer.id_to_token(id) ?? "";
    const [, hex] = piece.match(/^<0x([0-9A-F]{2})>$/) ?? [];
    if (!this.#isByteLevel) return hex ? [Number.parseInt(hex, 16)] : null;
    const bytes = Array.from(piece, (character) => BYTES.get(character));
    return bytes.includes(undefined) ? null : bytes;
  }
}

/** Text of a stream of tokens; a character is returned once all its bytes have arrived. */
export class Detokenizer {
  #text;
  #context;
  #contextText;
  #waiting = [];
  #missing = 0; // bytes that the unfinished character still lacks

  /** Begin after the tokens of a prompt, which are whole characters. */
  constructor(text, prompt) {
    this.#text = text;
    // Text depends on what precedes it: some tokenizers drop the first space of a sequence. The
    // last tokens that gave any text are enough context, so the cost of a push stays constant.
    this.#context = [...prompt];
    this.#contextText = text.decode(this.#context);
  }

  /** Text that this token completes; empty while a character lacks bytes. */
  push(id) {
    if (!this.#text.hasText(id)) return "";
    this.#waiting.push(id);
    const bytes = this.#text.bytes(id);
    this.#missing = bytes === null ? 0 : bytes.reduce(lacking, this.#missing);
    return this.#missing ? "" : this.flush();
  }

  /** Text of the pending tokens; bytes of unfinished characters become U+FFFD. */
  flush() {
    if (!this.#waiting.length) return "";
    this.#missing = 0;
    const both = this.#text.decode([...this.#context, ...this.#waiting]);
    const text = both.slice(this.#contextText.length);
    const alone = this.#text.decode(this.#waiting);
    if (alone) {
      this.#context = this.#waiting;
      this.#contextText = alone;
    } else {
      this.#context.push(...this.#waiting);
      this.#contextText = both;
    }
    this.#waiting = [];
    return text;
  }
}

/** The same tokenizer.json, whose special tokens have names that nobody can guess. */
function renamed(tokenizer) {
  const special = (tokenizer.added_tokens ?? []).filter((one) => one.special);
  if (!special.length) return tokenizer;
  const secret = crypto.getRandomValues(new BigUint64Array(2)).join("");
  const names = new Map(special.map(({ content }) => [content, secret + content]));
  const nameOf = (piece) => names.get(piece) ?? piece;
  const model = { ...tokenizer.model };
  const { vocab, merges, unk_token } = model;
  const pairs = (list) => list.map(([piece, value]) => [nameOf(piece), value]);
  if (Array.isArray(vocab)) model.vocab = pairs(vocab); // of a unigram model: pieces and scores
  else if (vocab) model.vocab = Object.fromEntries(pairs(Object.entries(vocab)));
  if (merges) {
    model.merges = merges.filter((one) => {
      const [left, right] = Array.isArray(one) ? one : one.split(" ", 2);
      return ![left, right, left + right].some((piece) => names.has(piece));
    });
  }
  if (unk_token) model.unk_token = nameOf(unk_token);
  const added = tokenizer.added_tokens.map((one) => ({ ...one, content: nameOf(one.content) }));
  return { ...tokenizer, model, added_tokens: added };
}

/** Bytes that a character lacks after this byte; `missing` is the count before it. */
function lacking(missing, byte) {
  if ((byte & 0xc0) === 0x80) return Math.max(0, missing - 1);
  if (byte >= 0xf0 && byte < 0xf5) return 3;
  if (byte >= 0xe0) return byte < 0xf0 ? 2 : 0;
  return byte >= 0xc2 ? 1 : 0;
}
