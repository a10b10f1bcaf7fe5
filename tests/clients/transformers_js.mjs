// Opens a package with transformers.js as it is; reads {folder, task, texts} and writes ids and outputs as JSON.
// Usage: node transformers_js.mjs NODE_MODULES REQUEST.json ANSWER.json
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, request, answer] = process.argv.slice(2);
const entry = path.join(modules, '@huggingface/transformers/dist/transformers.node.mjs');
const hf = await import(pathToFileURL(entry).href);
const { folder, task, texts } = JSON.parse(fs.readFileSync(request, 'utf8'));

hf.env.allowRemoteModels = false;
hf.env.localModelPath = path.dirname(folder);
const name = path.basename(folder);
const classes = {
    'text-classification': 'AutoModelForSequenceClassification',
    'token-classification': 'AutoModelForTokenClassification',
    'question-answering': 'AutoModelForQuestionAnswering',
    'feature-extraction': 'AutoModel',
    'fill-mask': 'AutoModelForMaskedLM',
};
const tokenizer = await hf.AutoTokenizer.from_pretrained(name);
const model = await hf[classes[task]].from_pretrained(name);

const made = [];
for (const [text, pair] of texts) {
    const feed = tokenizer(text, pair === null ? { truncation: true } : { text_pair: pair, truncation: true });
    const found = await model(feed);
    const outputs = {};
    for (const [key, value] of Object.entries(found)) {
        if (value?.dims) outputs[key] = { dims: value.dims, data: Array.from(value.data, Number) };
    }
    const inputs = {};
    for (const [key, value] of Object.entries(feed)) inputs[key] = Array.from(value.data, Number);
    made.push({ inputs, outputs });
}
// The one-line way of a web page, for what it is worth: it must find the same file by itself.
let piped = null;
if (task === 'text-classification') {
    const run = await hf.pipeline(task, name);
    piped = await run(texts[0][0]);
}
fs.writeFileSync(answer, JSON.stringify({ version: hf.env.version, made, piped }));
