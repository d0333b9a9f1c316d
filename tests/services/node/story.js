// A Node.js service, which bears its load until it grows. Its arguments say what is wrong with it then, "blocked",
// "threads", or nothing: "overlap", and a port, which it prints when it serves it. It reads words, "overload" and "calm",
// and answers each with the time (s since the epoch).

const {execFileSync} = require('child_process');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');
const readline = require('readline');
const client = require('prom-client');

const LIBUV_THREADS = 4;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Three at once take as long as the longest of them, whatever the load is: this one has nothing wrong with it.
async function overlap() {
    for (;;) {
        await Promise.all([pause(200), pause(100), pause(300)]);
        await Promise.all([1, 2, 3].map(() => fs.promises.stat('.')));
    }
}

// A call that does not return until something else has happened, in the thread that everything else needs.
async function blocked(state) {
    const never = new Int32Array(new SharedArrayBuffer(4));
    for (;;) {
        if (state.overloaded) Atomics.wait(never, 0, 0, 160);
        await pause(140);
    }
}

// Opening a pipe for reading takes a thread until somebody writes to it; everything else about files waits behind.
async function threads(state) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'story-'));
    const pipes = Array.from({length: LIBUV_THREADS}, (_, at) => path.join(folder, `${at}`));
    execFileSync('mkfifo', pipes);
    let opened = [];
    state.changed = () => {
        if (state.overloaded) {
            opened = pipes.map((pipe) => fs.promises.open(pipe, 'r'));
            for (let at = 0; at < 6; at++) fs.stat('.', () => {});
        } else if (opened.length) {
            // In this thread: the pool has none left.
            for (const pipe of pipes) fs.closeSync(fs.openSync(pipe, 'r+'));
            Promise.all(opened).then((files) => files.forEach((file) => file.close()));
            opened = [];
        }
    };
}

const [kind, port] = process.argv.slice(2);
const state = {overloaded: false, changed: () => {}};
client.collectDefaultMetrics();
({overlap, blocked, threads})[kind](state);

const server = http.createServer(async (_, response) => response.end(await client.register.metrics()));
server.listen(Number(port), '127.0.0.1', () => console.log(server.address().port));
readline.createInterface({input: process.stdin}).on('line', (word) => {
    state.overloaded = word === 'overload';
    state.changed();
    console.log(Date.now() / 1000);
}).on('close', () => process.exit(0));
