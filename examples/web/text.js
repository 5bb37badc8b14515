// Tokenizes prompts and detokenizes a stream of tokens, one whole character at a time.

/** The artifact's tokenizer, over @huggingface/tokenizers. */
export class Text {
  #tokenizer;
  #vocabulary;

  /**
   * @param {Function} Tokenizer the class of @huggingface/tokenizers
   * @param {object[]} files tokenizer.json and tokenizer_config.json, parsed
   * @param {object} vocabulary the manifest's
   */
  constructor(Tokenizer, [tokenizer, config], vocabulary) {
    this.#tokenizer = new Tokenizer(tokenizer, config);
    this.#vocabulary = vocabulary;
  }

  /** Tokens of a prompt that begins a sequence, after the start token if the model has one. */
  encode(prompt) {
    const { ids } = this.#tokenizer.encode(prompt, { add_special_tokens: false });
    const { add_bos_token, bos_token_id } = this.#vocabulary;
    return add_bos_token ? [bos_token_id, ...ids] : ids;
  }

  /** Text of tokens from the start of a sequence; invalid UTF-8 becomes U+FFFD. */
  decode(ids) {
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return ids.length ? this.#tokenizer.decode(ids, options) : "";
  }

  /** The one byte that a piece such as <0xE2> stands for; null for other pieces. */
  byte(id) {
    const [, hex] = this.#tokenizer.id_to_token(id)?.match(/^<0x([0-9A-F]{2})>$/) ?? [];
    return hex ? Number.parseInt(hex, 16) : null;
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
    this.#waiting.push(id);
    this.#missing = lacking(this.#text.byte(id), this.#missing);
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

/** Bytes that a character lacks after this byte; `missing` is the count before it. */
function lacking(byte, missing) {
  if (byte === null) return 0;
  if ((byte & 0xc0) === 0x80) return Math.max(0, missing - 1);
  if (byte >= 0xf0 && byte < 0xf5) return 3;
  if (byte >= 0xe0) return byte < 0xf0 ? 2 : 0;
  return byte >= 0xc2 ? 1 : 0;
}
