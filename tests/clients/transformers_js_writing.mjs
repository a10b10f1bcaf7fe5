// Lets transformers.js write with a package as it is; reads a list of
// {folder, task, texts, steps, chat}, writes new token ids as JSON.
// Usage: node transformers_js_writing.mjs NODE_MODULES REQUEST.json ANSWER.json
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, request, answer] = process.argv.slice(2);
const entry = path.join(modules, '@huggingface/transformers/dist/transformers.node.mjs');
const hf = await import(pathToFileURL(entry).href);
hf.env.allowRemoteModels = false;

async function written({ folder, task, texts, steps, chat }) {
    hf.env.localModelPath = path.dirname(folder);
    const name = path.basename(folder);
    const causal = task === 'text-generation';
    const tokenizer = await hf.AutoTokenizer.from_pretrained(name);
    const model = await hf[causal ? 'AutoModelForCausalLM' : 'AutoModelForSeq2SeqLM'].from_pretrained(name);
    async function write(batch) {
        const feed = tokenizer(batch, { padding: true });
        const made = await model.generate({ ...feed, max_new_tokens: steps, do_sample: false, num_beams: 1 });
        const given = causal ? feed.input_ids.dims[1] : 1;
        return made.tolist().map((row) => row.map(Number).slice(given));
    }
    const alone = [];
    for (const text of texts) alone.push((await write([text]))[0]);
    // The one-line ways of a web page.
    const piped = {};
    for (const kind of causal ? [task] : ['translation', 'text2text-generation']) {
        const run = await hf.pipeline(kind, name);
        piped[kind] = [];
        for (const text of texts) {
            const [made] = await run(text, { max_new_tokens: steps, do_sample: false, num_beams: 1 });
            piped[kind].push(made.translation_text ?? made.generated_text);
        }
    }
    const asked = { add_generation_prompt: true, return_tensor: false, return_dict: false };
    const talk = chat ? [tokenizer.apply_chat_template(chat, asked)] : null;
    return { alone, batch: await write(texts), piped, chat: talk };
}

const made = [];
for (const one of JSON.parse(fs.readFileSync(request, 'utf8'))) made.push(await written(one));
fs.writeFileSync(answer, JSON.stringify(made));
