// Runs a job with transformers.js, in Node or in a browser.

/** The answer to a job; `name` is the artifact's, below its local models, `loaded` how it is. */
export async function doJob({ AutoModelForCausalLM, AutoTokenizer, Tensor }, name, job, loaded) {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name, loaded);
  const numbers = (tensor) => Array.from(tensor.data, Number);
  const read = (text) => numbers(tokenizer(text).input_ids);
  const write = (ids) => (ids.length ? tokenizer.decode(ids, { skip_special_tokens: true }) : "");
  const inputs = (ids) => ({
    input_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
    attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]),
  });
  const options = { max_new_tokens: job.new_tokens, do_sample: false };
  const whole = async (ids) => numbers(await model.generate({ ...inputs(ids), ...options }));
  const found = { tokens: [], texts: [], ids: [], decoded: [], chat: null, scored: null };
  for (const prompt of job.prompts) {
    found.tokens.push((await whole(prompt)).slice(prompt.length));
  }
  for (const text of job.texts) {
    const prompt = read(text);
    found.texts.push(write(await whole(prompt)).slice(write(prompt).length));
  }
  for (const string of job.strings) {
    const ids = read(string);
    found.ids.push(ids);
    found.decoded.push(write(ids));
  }
  if (job.chat) {
    const plain = { tokenize: false, add_generation_prompt: true };
    found.chat = tokenizer.apply_chat_template(job.chat, plain);
  }
  if (job.logits) found.scored = Array.from((await model(inputs(job.score))).logits.data);
  return found;
}
