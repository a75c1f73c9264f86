// Watches mailboxes with imapflow, parses with mailparser, posts JSON with undici.
//
//   node watch.js JOB.json
//
// JOB.json: {host, port, ca, token, url, at_once, mailboxes: [address, ...]}. Each mailbox has a
// connection of its own, goes into IDLE by an explicit idle() after each pull, and pulls at each
// EXISTS. Prints "ready" when all stand in IDLE. Nothing is durable. Runs until it is ended.
'use strict';

const fs = require('node:fs');
const { ImapFlow } = require('imapflow');
const { simpleParser } = require('mailparser');
const { Pool } = require('undici');

const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const ca = fs.readFileSync(job.ca);
const target = new URL(job.url);
const pool = new Pool(target.origin, { connections: 64 });

function fail(error) {
    console.error(error);
    process.exit(1);
}

async function post(address, uid, source) {
    const mail = await simpleParser(source, { skipHtmlToText: true, skipTextToHtml: true });
    const answer = await pool.request({
        method: 'POST',
        path: target.pathname,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({
            address,
            uid,
            headers: mail.headerLines,
            subject: mail.subject,
            date: mail.date,
            message_id: mail.messageId,
            text: mail.text,
            html: mail.html
        })
    });
    await answer.body.dump();
    if (answer.statusCode !== 200) {
        throw new Error(`webhook answered ${answer.statusCode}`);
    }
}

async function pull(client, address, next) {
    const found = [];
    for await (const message of client.fetch(`${next}:*`, { uid: true, source: true }, { uid: true })) {
        // "n:*" always means the last message as well
        if (message.uid >= next) {
            found.push(message);
        }
    }
    await Promise.all(found.map((one) => post(address, one.uid, one.source)));
    return found.reduce((top, one) => Math.max(top, one.uid + 1), next);
}

async function watch(client, address) {
    let next = client.mailbox.uidNext;
    let dirty = false;
    let wake = () => {};
    client.on('exists', () => {
        dirty = true;
        wake();
    });
    for (;;) {
        if (!dirty) {
            const woken = new Promise((resolve) => (wake = resolve));
            client.idle().catch(fail);
            await woken;
        }
        dirty = false;
        next = await pull(client, address, next);
    }
}

async function open(address) {
    const client = new ImapFlow({
        host: job.host,
        port: job.port,
        secure: true,
        auth: { user: address, accessToken: job.token },
        tls: { ca },
        logger: false
    });
    client.on('error', fail);
    await client.connect();
    await client.mailboxOpen('INBOX', { readOnly: true });
    watch(client, address).catch(fail);
}

async function main() {
    const left = [...job.mailboxes];
    const one = async () => {
        while (left.length) {
            await open(left.shift());
        }
    };
    await Promise.all(Array.from({ length: job.at_once }, one));
    console.log('ready');
}

main().catch(fail);
