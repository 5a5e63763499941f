// What scripts/pages.sh does with the pages of a router, whose port is the argument.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as pause } from 'node:timers/promises';
import puppeteer from 'puppeteer-core';
import { encode } from './qr.mjs';

const [port] = process.argv.slice(2);
const host = 'router.example'; // that of the certificate
const site = `https://${host}:${port}`;
const folder = dirname(fileURLToPath(import.meta.url));
const axe = readFileSync(`${folder}/node_modules/axe-core/axe.min.js`, 'utf8');
const shortLink = '#MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY?p=7301&c=LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI';
const pages = {
  index: '/',
  short: `/a${shortLink}`,
  long: `/invitation#/?v=2-7&smp=${'smp%3A%2F%2FLcJUMfVhwD8yxjAiSaDzzGF3'.repeat(20)}`,
  toolong: `/contact#/?v=2-7&smp=${'x'.repeat(3000)}`,
  incomplete: '/g',
};
const expected = { // of the links: what opens the app
  short: `simplex:/a${shortLink}&h=${host}`,
  long: 'simplex:/invitation#',
  toolong: 'simplex:/contact#',
};
let failures = 0;

function fail(where, what) {
  failures++;
  console.error(`${where}: ${what}`);
}

// read returns the text of the QR code in a picture.
function read(picture) {
  try {
    return execFileSync('zbarimg', ['-q', '--raw', '-Sdisable', '-Sqrcode.enable', picture], { stdio: ['ignore', 'pipe', 'ignore'] }).toString().trimEnd();
  } catch {
    return 'no code';
  }
}

// readAll checks codes of each version.
function readAll() {
  const versions = new Set();
  for (let length = 1; length <= 2953; length += length < 200 ? 7 : 41) {
    const text = Array.from({ length }, (_, i) => 'abcXYZ0189-_=%&?#/:'[(i * i + 7 * i + length) % 19]).join('');
    const code = encode(text);
    versions.add(code.size);
    const [scale, quiet] = [4, 4];
    const side = (code.size + 2 * quiet) * scale;
    const pixels = Buffer.alloc(side * side, 255);
    for (let i = 0; i < pixels.length; i++) {
      const x = Math.floor((i % side) / scale) - quiet;
      const y = Math.floor(i / side / scale) - quiet;
      if (x >= 0 && y >= 0 && x < code.size && y < code.size && code.dark(x, y)) pixels[i] = 0;
    }
    writeFileSync(`${folder}/code.pgm`, Buffer.concat([Buffer.from(`P5 ${side} ${side} 255\n`), pixels]));
    if (read(`${folder}/code.pgm`) !== text) fail('QR code', `of ${length} bytes cannot be read`);
  }
  if (versions.size !== 40 || encode('x'.repeat(2954)) !== null) fail('QR code', `${versions.size} versions`);
}

async function look(browser, name, path, width, scheme) {
  const where = `${name}-${width}-${scheme}`;
  const page = await browser.newPage();
  await page.setViewport({ width, height: 900, deviceScaleFactor: 2 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.setBypassCSP(false);
  page.on('console', (m) => fail(where, m.text()));
  page.on('pageerror', (e) => fail(where, e.message));
  page.on('request', (r) => {
    if (!r.url().startsWith(`${site}/`)) fail(where, `asks for ${r.url()}`);
  });
  await page.goto(site + path, { waitUntil: 'networkidle0' });
  await page.screenshot({ path: `${folder}/pictures/${where}.png`, fullPage: true });
  if (await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth)) fail(where, 'is wider than the window');
  if (name in expected) {
    const app = await page.$eval('#open', (a) => a.getAttribute('href'));
    if (!app.startsWith(expected[name])) fail(where, `opens ${app}`);
    const figure = await page.$('#qr');
    if (name !== 'toolong') {
      await figure.screenshot({ path: `${folder}/code.png` });
      const want = `https://${host}${path}`;
      if (read(`${folder}/code.png`) !== want) fail(where, 'its QR code is not the link');
    } else if (await figure.isVisible()) fail(where, 'has a QR code');
  }
  await page.setBypassCSP(true); // for axe alone
  await page.reload({ waitUntil: 'networkidle0' });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  for (const v of violations) fail(where, `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target).join(', ')}`);
  await page.close();
}

for (let i = 0; ; i++) { // until the router serves
  const socket = connect(port, '127.0.0.1');
  const served = await new Promise((done) => socket.on('connect', () => done(true)).on('error', () => done(false)));
  socket.destroy();
  if (served) break;
  if (i === 300) throw new Error(`${site} is not served`);
  await pause(100);
}
mkdirSync(`${folder}/pictures`, { recursive: true });
readAll();
const browser = await puppeteer.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--ignore-certificate-errors', `--host-resolver-rules=MAP ${host} 127.0.0.1`] });
for (const [name, path] of Object.entries(pages)) {
  for (const width of [360, 768, 1440]) {
    for (const scheme of ['light', 'dark']) await look(browser, name, path, width, scheme);
  }
}
await browser.close();
console.log(failures === 0 ? 'all is well' : `${failures} failures`);
process.exitCode = failures === 0 ? 0 : 1;
