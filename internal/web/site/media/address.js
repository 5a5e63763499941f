// parseLink returns what the address of a page to which a link leads says: the
// action, the link as it is shown to others, and as the app opens it. It returns null
// if there is nothing after "#".
export function parseLink(address) {
  const url = new URL(address);
  const action = url.pathname.split('/').filter((part) => part !== '').pop();
  if (action === undefined || url.hash.length < 2) return null;
  // Short links, of one letter, mean the router whose page this is. The app has to be
  // told its name.
  const hash = action.length === 1 ? withHost(url.hash, url.hostname) : url.hash;
  return { action, web: `https://${url.hostname}/${action}${url.hash}`, app: `simplex:/${action}${hash}` };
}

// withHost puts a host before others in the parameter h of the part after "#".
function withHost(hash, host) {
  const at = hash.indexOf('?');
  if (at < 0) return `${hash}?h=${host}`;
  const parameters = hash.slice(at + 1).split('&');
  const i = parameters.findIndex((p) => p.startsWith('h='));
  if (i < 0) {
    parameters.push(`h=${host}`);
  } else {
    const others = parameters[i].slice(2);
    parameters[i] = others === '' ? `h=${host}` : `h=${host},${others}`;
  }
  return `${hash.slice(0, at)}?${parameters.filter((p) => p !== '').join('&')}`;
}
