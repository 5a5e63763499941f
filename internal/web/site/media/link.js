// The page to which links lead. All that matters is in the address of the page, most
// of it after "#", which is not sent to the server.

import { encode } from './qr.js';
import { parseLink } from './address.js';

const titles = {
  contact: 'A contact address',
  a: 'A contact address',
  invitation: 'A one-time invitation',
  i: 'A one-time invitation',
  g: 'A group',
  c: 'A channel',
  r: 'A relay address',
};

const quietZone = 4; // modules

const element = (id) => document.getElementById(id);

// draw shows the QR code of a text, and tells whether there is one.
function draw(text) {
  const code = encode(text);
  if (code === null) return false;
  let path = '';
  for (let y = 0; y < code.size; y++) {
    for (let x = 0; x < code.size; x++) {
      const start = x;
      while (x < code.size && code.dark(x, y)) x++;
      if (x > start) path += `M${start} ${y}h${x - start}v1h${start - x}z`;
    }
  }
  const side = code.size + 2 * quietZone;
  element('qr').setAttribute('viewBox', `${-quietZone} ${-quietZone} ${side} ${side}`);
  element('qr').firstElementChild.setAttribute('d', path);
  return true;
}

function show() {
  const link = parseLink(window.location.href);
  element('connect').hidden = link === null;
  element('notice').hidden = link !== null;
  if (link === null) {
    element('notice').textContent = 'This link is not complete: the part after “#” is missing. Ask for it again, or copy all of it.';
    return;
  }
  element('title').textContent = titles[link.action] ?? 'A link for the app';
  document.title = `${element('title').textContent} – SimpleX Chat`;
  element('open').href = link.app;
  element('command').textContent = `/c ${link.web}`;
  element('copied').textContent = '';
  const drawn = draw(link.web);
  element('qr').toggleAttribute('hidden', !drawn);
  element('scan').hidden = !drawn;
  element('toolong').hidden = drawn;
}

async function copy() {
  const command = element('command');
  try {
    await navigator.clipboard.writeText(command.textContent);
    element('copied').textContent = 'Copied.';
  } catch {
    window.getSelection().selectAllChildren(command); // not allowed, or not over HTTPS
    element('copied').textContent = 'Selected: copy it with your keyboard or menu.';
  }
}

element('copy').addEventListener('click', copy);
window.addEventListener('hashchange', show);
show();
