// What an editor says of recipes: npm's yaml-language-server, asked as an editor asks it.
//
//     npm install --no-save --prefix DIR yaml-language-server@1.25.0
//     node scripts/check-schema.mjs DIR recipes/*.yaml
//
// Each recipe names its schema in its first line. Nothing may be wrong with it, and a key that is
// misspelt must be seen.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...recipes] = process.argv.slice(2);
const server = spawn(process.execPath, [
  resolve(folder, "node_modules/yaml-language-server/bin/yaml-language-server"),
  "--stdio",
]);
const waiting = new Map();
let held = Buffer.alloc(0);

function send(message) {
  const text = JSON.stringify({ jsonrpc: "2.0", ...message });
  server.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
}

function receive(message) {
  if (message.method === "textDocument/publishDiagnostics") {
    waiting.get(message.params.uri)?.(message.params.diagnostics);
  } else if (message.method && message.id !== undefined) {
    // It asks for settings; the defaults will do.
    const result = message.method === "workspace/configuration" ? message.params.items.map(() => null) : null;
    send({ id: message.id, result });
  } else if (message.id === 0) {
    send({ method: "initialized", params: {} });
    main();
  }
}

server.stdout.on("data", (data) => {
  held = Buffer.concat([held, data]);
  for (;;) {
    const head = held.indexOf("\r\n\r\n");
    const length = head < 0 ? undefined : Number(/Content-Length: (\d+)/.exec(held.subarray(0, head))[1]);
    if (length === undefined || held.length < head + 4 + length) return;
    const body = held.subarray(head + 4, head + 4 + length);
    held = held.subarray(head + 4 + length);
    receive(JSON.parse(body));
  }
});

function diagnose(uri, text) {
  return new Promise((done) => {
    waiting.set(uri, done);
    send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text } } });
  });
}

async function main() {
  let wrong = 0;
  for (const recipe of recipes) {
    const uri = pathToFileURL(resolve(recipe)).href;
    const text = readFileSync(recipe, "utf8");
    const found = await diagnose(uri, text);
    for (const item of found) console.log(`${recipe}:${item.range.start.line + 1}: ${item.message}`);
    const misspelt = await diagnose(uri.replace(/\.yaml$/, "-misspelt.yaml"), text.replace(/\n {4}uses:/, "\n    usess:").replace("{ uses:", "{ usess:"));
    if (misspelt.length === 0) console.log(`${recipe}: a misspelt key is not seen`);
    wrong += found.length + (misspelt.length === 0);
    console.log(`${recipe}: ${found.length} problems, ${misspelt.length} when a key is misspelt`);
  }
  server.kill();
  process.exit(wrong === 0 ? 0 : 1);
}

send({ id: 0, method: "initialize", params: { processId: process.pid, rootUri: null, capabilities: {} } });
