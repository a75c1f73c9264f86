// Reads whole mailboxes with imapflow, parses with mailparser, posts JSON with undici.
//
//   node pull.js JOB.json
//
// JOB.json: {host, port, ca, token, url, concurrency, mailboxes: [address, ...]}. All mailboxes
// are read at once, each over a connection of its own, with `concurrency` requests at once per
// mailbox. Nothing is durable: a crash starts again from the beginning. Ends when all is posted.
'use strict';

const fs = require('node:fs');
const { ImapFlow } = require('imapflow');
const { simpleParser } = require('mailparser');
const { Pool } = require('undici');

const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const target = new URL(job.url);
const pool = new Pool(target.origin, { connections: 64 });

async function post(address, uid, source) {
    const mail = await simpleParser(source, { skipHtmlToText: true, skipTextToHtml: true });
    const body = JSON.stringify({
        address,
        uid,
        headers: mail.headerLines,
        from: mail.from,
        to: mail.to,
        subject: mail.subject,
        date: mail.date,
        message_id: mail.messageId,
        text: mail.text,
        html: mail.html,
        attachments: mail.attachments.map((one) => ({
            filename: one.filename,
            content_type: one.contentType,
            size: one.size,
            content_base64: one.content.toString('base64')
        }))
    });
    const answer = await pool.request({
        method: 'POST',
        path: target.pathname,
        headers: { 'content-type': 'application/json' },
        body
    });
    await answer.body.dump();
    if (answer.statusCode !== 200) {
        throw new Error(`webhook answered ${answer.statusCode}`);
    }
}

async function pull(address) {
    const client = new ImapFlow({
        host: job.host,
        port: job.port,
        secure: true,
        auth: { user: address, accessToken: job.token },
        tls: { ca: fs.readFileSync(job.ca) },
        logger: false
    });
    await client.connect();
    await client.mailboxOpen('INBOX', { readOnly: true });
    const running = new Set();
    for await (const message of client.fetch('1:*', { uid: true, source: true })) {
        const one = post(address, message.uid, message.source);
        running.add(one);
        one.then(() => running.delete(one), () => {});
        if (running.size >= job.concurrency) {
            await Promise.race(running);
        }
    }
    await Promise.all(running);
    await client.logout();
}

Promise.all(job.mailboxes.map(pull)).then(
    () => process.exit(0),
    (error) => {
        console.error(error);
        process.exit(1);
    }
);
