// QR codes of text, as ISO/IEC 18004 has them: byte mode, versions 1 to 40, error
// correction L, which is enough on a screen and makes the largest modules.

const levelBits = 1;

// What each version has, from 1 on: words of error correction in a block, and blocks.
const correctionWords = [7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28,
  28, 28, 30, 30, 26, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30];
const blockCounts = [1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8,
  8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19, 19, 20, 21, 22, 24, 25];

// encode returns the code of a text, without the quiet zone: its size in modules and
// a function that tells whether the module in a column and a row is dark. It returns
// null if the text is too long, which is so from 2954 bytes on.
export function encode(text) {
  const bytes = new TextEncoder().encode(text);
  for (let version = 1; version <= blockCounts.length; version++) {
    const grid = new Grid(version);
    const total = grid.words();
    const correction = correctionWords[version - 1];
    const blocks = blockCounts[version - 1];
    const room = total - correction * blocks;
    if (4 + countBits(version) + 8 * bytes.length <= 8 * room) {
      grid.place(interleave(dataWords(bytes, version, room), total, blocks, correction));
      grid.mask();
      return { size: grid.size, dark: (x, y) => grid.get(x, y) === 1 };
    }
  }
  return null;
}

function countBits(version) {
  return version < 10 ? 8 : 16;
}

// dataWords returns the bytes with their header, filled up.
function dataWords(bytes, version, room) {
  const bits = [];
  const append = (value, length) => {
    for (let i = length - 1; i >= 0; i--) bits.push((value >> i) & 1);
  };
  append(4, 4); // byte mode
  append(bytes.length, countBits(version));
  for (const b of bytes) append(b, 8);
  append(0, Math.min(4, 8 * room - bits.length)); // terminator
  append(0, (8 - (bits.length % 8)) % 8);
  for (let fill = 0xec; bits.length < 8 * room; fill ^= 0xec ^ 0x11) append(fill, 8);
  const words = new Uint8Array(room);
  bits.forEach((bit, i) => { words[i >> 3] |= bit << (7 - (i & 7)); });
  return words;
}

// Powers of 2 in the field of 256 elements, and their exponents.
const power = new Uint8Array(255);
const exponent = new Uint8Array(256);
for (let i = 0, x = 1; i < 255; i++) {
  power[i] = x;
  exponent[x] = i;
  x = (x << 1) ^ (x & 0x80 ? 0x11d : 0);
}

function times(a, b) {
  return a && b ? power[(exponent[a] + exponent[b]) % 255] : 0;
}

// generator returns the coefficients of the product of (x - 2^i) for i < degree,
// without that of the highest power.
function generator(degree) {
  let product = [1];
  for (let i = 0; i < degree; i++) {
    const next = [...product, 0];
    product.forEach((c, k) => { next[k + 1] ^= times(c, power[i]); });
    product = next;
  }
  return product.slice(1);
}

// remainder returns the words of error correction of a block.
function remainder(data, divisor) {
  const rest = new Uint8Array(divisor.length);
  for (const word of data) {
    const factor = word ^ rest[0];
    rest.copyWithin(0, 1);
    rest[rest.length - 1] = 0;
    divisor.forEach((c, i) => { rest[i] ^= times(c, factor); });
  }
  return rest;
}

// interleave divides the data into blocks, of which the last ones can have a word
// more, and takes a word of each in turn: first of the data, then of the correction.
function interleave(data, total, count, correction) {
  const short = Math.floor(total / count) - correction;
  const shortBlocks = count - (total % count);
  const divisor = generator(correction);
  const blocks = [];
  for (let i = 0, at = 0; i < count; i++) {
    const end = at + short + (i < shortBlocks ? 0 : 1);
    blocks.push({ data: data.subarray(at, end), check: remainder(data.subarray(at, end), divisor) });
    at = end;
  }
  const words = [];
  for (let i = 0; i <= short; i++) {
    for (const b of blocks) if (i < b.data.length) words.push(b.data[i]);
  }
  for (let i = 0; i < correction; i++) {
    for (const b of blocks) words.push(b.check[i]);
  }
  return words;
}

// The masks invert modules of the data.
const masks = [
  (x, y) => (x + y) % 2 === 0,
  (x, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

// check appends the remainder of a code to a value: of BCH (15, 5) or Golay (18, 6).
function check(value, divisor, length) {
  let rest = value << length;
  for (let i = 31 - Math.clz32(rest); i >= length; i--) {
    if ((rest >> i) & 1) rest ^= divisor << (i - length);
  }
  return (value << length) | rest;
}

// A Grid is the modules of a code, 1 for the dark ones, some of which are fixed by
// the version.
class Grid {
  constructor(version) {
    this.size = 17 + 4 * version;
    this.modules = new Uint8Array(this.size * this.size);
    this.fixed = new Uint8Array(this.size * this.size);
    const last = this.size - 1;
    for (let i = 0; i < this.size; i++) { // timing
      this.fix(6, i, i % 2 === 0);
      this.fix(i, 6, i % 2 === 0);
    }
    for (const [x, y] of [[3, 3], [last - 3, 3], [3, last - 3]]) this.square(x, y, 4); // finders
    const centers = alignment(version, this.size);
    for (const x of centers) {
      for (const y of centers) {
        const finder = (x === 6 && (y === 6 || y === last - 6)) || (x === last - 6 && y === 6);
        if (!finder) this.square(x, y, 2);
      }
    }
    this.format(0);
    if (version >= 7) {
      const bits = check(version, 0x1f25, 12);
      for (let i = 0; i < 18; i++) {
        const a = this.size - 11 + (i % 3);
        const b = Math.floor(i / 3);
        this.fix(a, b, (bits >> i) & 1);
        this.fix(b, a, (bits >> i) & 1);
      }
    }
  }

  get(x, y) {
    return this.modules[y * this.size + x];
  }

  fix(x, y, dark) {
    this.modules[y * this.size + x] = dark ? 1 : 0;
    this.fixed[y * this.size + x] = 1;
  }

  // square draws the squares in one another of a finder (radius 4, with the light
  // border) or an alignment pattern (radius 2).
  square(x, y, radius) {
    for (let dy = -radius; dy <= radius; dy++) {
      for (let dx = -radius; dx <= radius; dx++) {
        const distance = Math.max(Math.abs(dx), Math.abs(dy));
        const inside = x + dx >= 0 && x + dx < this.size && y + dy >= 0 && y + dy < this.size;
        if (inside) this.fix(x + dx, y + dy, radius === 4 ? distance !== 2 && distance !== 4 : distance !== 1);
      }
    }
  }

  // format writes level and mask, twice, and the module that is always dark.
  format(mask) {
    const bits = check((levelBits << 3) | mask, 0x537, 10) ^ 0x5412;
    const at = (i) => (bits >> i) & 1;
    for (let i = 0; i < 15; i++) {
      if (i < 8) {
        this.fix(8, i < 6 ? i : i + 1, at(i));
        this.fix(this.size - 1 - i, 8, at(i));
      } else {
        this.fix(i === 8 ? 7 : 14 - i, 8, at(i));
        this.fix(8, this.size - 15 + i, at(i));
      }
    }
    this.fix(8, this.size - 8, 1);
  }

  // words returns how many words there is room for.
  words() {
    return this.fixed.reduce((n, fixed) => n - fixed, this.fixed.length) >> 3;
  }

  // place writes the words in pairs of columns, from the right, up and down.
  place(words) {
    let i = 0;
    let up = true;
    for (let right = this.size - 1; right > 0; right -= 2) {
      if (right === 6) right = 5; // timing
      for (let row = 0; row < this.size; row++) {
        const y = up ? this.size - 1 - row : row;
        for (const x of [right, right - 1]) {
          if (!this.fixed[y * this.size + x]) {
            this.modules[y * this.size + x] = (words[i >> 3] >> (7 - (i & 7))) & 1;
            i++;
          }
        }
      }
      up = !up;
    }
  }

  // mask applies the mask that is easiest to read, and writes the format.
  mask() {
    let best = 0;
    let least = Infinity;
    for (let i = 0; i < masks.length; i++) {
      this.invert(masks[i]);
      this.format(i);
      const penalty = this.penalty();
      this.invert(masks[i]);
      if (penalty < least) [best, least] = [i, penalty];
    }
    this.invert(masks[best]);
    this.format(best);
  }

  invert(mask) {
    for (let y = 0; y < this.size; y++) {
      for (let x = 0; x < this.size; x++) {
        if (!this.fixed[y * this.size + x] && mask(x, y)) this.modules[y * this.size + x] ^= 1;
      }
    }
  }

  // penalty says how hard the code is to read: for rows of modules that are alike,
  // for squares of them, for what looks like a finder, and for more dark than light.
  penalty() {
    let sum = 0;
    let dark = 0;
    const finder = /(?=00001011101|10111010000)/g;
    for (let a = 0; a < this.size; a++) {
      let row = '';
      let column = '';
      for (let b = 0; b < this.size; b++) {
        row += this.get(b, a);
        column += this.get(a, b);
        dark += this.get(b, a);
        if (a > 0 && b > 0) {
          const square = this.get(b, a) + this.get(b - 1, a) + this.get(b, a - 1) + this.get(b - 1, a - 1);
          if (square % 4 === 0) sum += 3;
        }
      }
      for (const line of [row, column]) {
        for (const run of line.match(/0{5,}|1{5,}/g) ?? []) sum += run.length - 2;
        sum += 40 * (line.match(finder) ?? []).length;
      }
    }
    return sum + 10 * Math.floor(Math.abs((20 * dark) / this.modules.length - 10));
  }
}

// alignment returns the rows, and columns, of the centers of alignment patterns.
function alignment(version, size) {
  if (version === 1) return [];
  const count = Math.floor(version / 7) + 2;
  const step = version === 32 ? 26 : 2 * Math.ceil((size - 13) / (2 * count - 2));
  const centers = [6];
  for (let i = count - 2; i >= 0; i--) centers.push(size - 7 - i * step);
  return centers;
}
