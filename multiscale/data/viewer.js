// Interactive view of a lattice: every element, every voxel, without a mesh.
//
// The lattice is sent as it is stored: an index map (which cell fills each element) and the unique cells'
// octants, one bit a voxel. A fragment shader walks each pixel's ray through the elements and, inside one
// that holds a cell, through its voxels (Amanatides and Woo, 1987). So the whole lattice is drawn at a cost
// that depends on the pixels, not on the number of cells, and a slice is two numbers.
// While it turns, the picture is drawn with fewer pixels and coarser voxels if the machine needs that; at rest
// it is drawn sharp, by averaging jittered passes.
"use strict";

const VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler3D;
precision highp usampler2D;
precision highp usampler3D;
uniform vec3 eye, right, up, ahead;   // camera, in elements; right and up span half a picture's height
uniform vec2 size, shift;             // pixels; jitter or offset in pixels
uniform vec3 lo, hi;                  // what is kept, in elements
uniform ivec3 grid;
uniform usampler3D cells;             // 0: nothing there; else cell + 1
uniform sampler3D field;              // 0: no value; else 1/255 + 254/255 * position in the range
uniform sampler2D palette;            // 256 colours
uniform usampler2D atlas;             // octants: texel (cell n + i) n + j holds voxels k as bits
uniform int n;                        // octant edge in voxels; 0 draws elements as boxes
uniform bool categories, picking;
uniform vec4 lines[15];               // ends in pixels, of the grid's edges and of the three axes
uniform float thick;
out vec4 colour;
const int SHIFT = 12;

bool filled(int cell, ivec3 v) {
  ivec3 o = min(v, 2 * n - 1 - v);    // mirror images; outside the cell it repeats
  o = max(o, -1 - o);
  int t = (cell * n + o.x) * n + o.y;
  return ((texelFetch(atlas, ivec2(t & ((1 << SHIFT) - 1), t >> SHIFT), 0).r >> uint(o.z)) & 1u) != 0u;
}

/** White paper with the grid's outline and the axes. */
vec3 paper() {
  vec3 out3 = vec3(1.0);
  for (int i = 0; i < 15; i++) {
    vec2 a = lines[i].xy, b = lines[i].zw - a, p = gl_FragCoord.xy + shift - a;
    float gap = length(p - b * clamp(dot(p, b) / max(dot(b, b), 1e-6), 0.0, 1.0));
    vec3 ink = i < 12 ? vec3(0.65, 0.69, 0.74) : i == 12 ? vec3(0.75, 0.22, 0.17) : i == 13 ? vec3(0.18, 0.55, 0.34) : vec3(0.17, 0.42, 0.69);
    out3 = mix(ink, out3, smoothstep(0.0, 1.0, gap - 0.5 * thick + 0.5));
  }
  return out3;
}

void main() {
  vec2 q = (2.0 * (gl_FragCoord.xy + shift) - size) / size.y;
  vec3 ray = normalize(ahead + q.x * right + q.y * up);
  ray = mix(ray, vec3(1e-7), lessThan(abs(ray), vec3(1e-7)));
  vec3 inv = 1.0 / ray, sgn = sign(ray);
  vec3 a = (lo - eye) * inv, b = (hi - eye) * inv;
  vec3 near = min(a, b), far = max(a, b);
  float t = max(max(near.x, max(near.y, near.z)), 0.0), end = min(far.x, min(far.y, far.z));
  colour = vec4(picking ? vec3(0.0) : vec3(1.0), 1.0);
  if (t >= end) { if (!picking) colour.rgb = paper(); return; }
  ivec3 stride = ivec3(sgn);
  vec3 ahead1 = max(sgn, 0.0);
  vec3 normal = t == near.x ? vec3(-sgn.x, 0, 0) : t == near.y ? vec3(0, -sgn.y, 0) : vec3(0, 0, -sgn.z);
  ivec3 e = clamp(ivec3(floor(eye + ray * t + 1e-4 * ray)), ivec3(floor(lo)), ivec3(ceil(hi)) - 1);
  float within = 0.0;                 // way gone through filled elements
  bool hit = false, cut = true;
  int cell = -1;
  for (int i = 0; i < 3 * 512 && t < end; i++) {
    vec3 next = (vec3(e) + ahead1 - eye) * inv;
    float leave = min(min(next.x, min(next.y, next.z)), end);
    cell = int(texelFetch(cells, e, 0).r) - 1;
    if (cell >= 0 && n == 0) { hit = true; break; }
    if (cell >= 0) {
      float m = float(2 * n), begin = t;
      ivec3 v = clamp(ivec3(floor((eye + ray * t - vec3(e)) * m)), ivec3(0), ivec3(2 * n - 1));
      vec3 step3 = abs(inv) / m, wall = (vec3(e) + (vec3(v) + ahead1) / m - eye) * inv;
      for (int j = 0; j < 6 * 64; j++) {
        if (filled(cell, v)) {
          hit = true;
          // A surface of voxels is smoothed by the solid around it; a cut stays flat.
          if (!cut && !picking) {
            vec3 slope = vec3(0.0);
            float near8 = 0.0;
            for (int d = 0; d < 8; d++) {
              ivec3 c = 2 * ivec3(d & 1, (d >> 1) & 1, d >> 2) - 1;
              if (filled(cell, v + c)) { slope -= vec3(c); near8 += 1.0; }
            }
            for (int d = 0; d < 6; d++) {
              ivec3 c = ivec3(0);
              c[d >> 1] = 2 * (d & 1) - 1;
              if (filled(cell, v + c)) slope -= 2.0 * vec3(c);
            }
            normal = normalize(normal + 0.45 * slope);
            within += near8 * 0.02;
          }
          break;
        }
        cut = false;
        if (wall.x <= wall.y && wall.x <= wall.z) { t = wall.x; wall.x += step3.x; v.x += stride.x; normal = vec3(-sgn.x, 0, 0); }
        else if (wall.y <= wall.z) { t = wall.y; wall.y += step3.y; v.y += stride.y; normal = vec3(0, -sgn.y, 0); }
        else { t = wall.z; wall.z += step3.z; v.z += stride.z; normal = vec3(0, 0, -sgn.z); }
        if (t >= leave || any(lessThan(v, ivec3(0))) || any(greaterThanEqual(v, ivec3(2 * n)))) break;
      }
      within += min(t, leave) - begin;
      if (hit) break;
    } else cut = false;
    t = leave;
    if (next.x <= next.y && next.x <= next.z) { e.x += stride.x; normal = vec3(-sgn.x, 0, 0); }
    else if (next.y <= next.z) { e.y += stride.y; normal = vec3(0, -sgn.y, 0); }
    else { e.z += stride.z; normal = vec3(0, 0, -sgn.z); }
    if (any(lessThan(e, ivec3(0))) || any(greaterThanEqual(e, grid))) break;
  }
  if (!hit) { if (!picking) colour.rgb = paper(); return; }
  if (picking) {
    int id = (e.x * grid.y + e.y) * grid.z + e.z + 1;
    colour = vec4(id & 255, (id >> 8) & 255, (id >> 16) & 255, 255) / 255.0;
    return;
  }
  float value = texelFetch(field, e, 0).r * 255.0;
  vec3 tint = value < 0.5 ? vec3(0.80, 0.82, 0.85)
    : texelFetch(palette, ivec2(categories ? int(value + 0.5) - 1 : int((value - 1.0) * 255.0 / 254.0 + 0.5), 0), 0).rgb;
  vec3 light = normalize(-ahead + 0.45 * normalize(up) - 0.35 * normalize(right));
  float shade = 0.58 + 0.47 * max(dot(normal, light), 0.0);
  if (n == 0) {                       // thin lines where elements meet, as far as pixels can show them
    vec3 f = fract(eye + ray * t + 0.5) - 0.5;
    vec3 edge = mix(abs(f), vec3(1.0), greaterThan(abs(normal), vec3(0.5)));
    float pixel = t * 2.0 * length(up) / size.y;
    float line = 1.0 - smoothstep(0.5 * pixel, 1.5 * pixel, min(edge.x, min(edge.y, edge.z)));
    shade *= 1.0 - 0.3 * line * clamp(0.16 / pixel, 0.0, 1.0);
  } else shade *= 0.25 + 0.75 * exp(-0.55 * within);
  colour = vec4(tint * shade, 1.0);
}`;

const SHIFT = 12, FOV = 28 * Math.PI / 180, PASSES = 12;

/** Bytes of a base64 text that zlib has deflated. */
async function inflate(text) {
  const raw = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Words of 32 bits, voxels along k, from octants packed as bits of their domain i <= j <= k. */
function unpackOctants(packed, count, n) {
  const bytes = Math.ceil(n * (n + 1) * (n + 2) / 48), rank = new Int32Array(n * n * n);
  let next = 0;
  for (let i = 0; i < n; i++) for (let j = i; j < n; j++) for (let k = j; k < n; k++, next++)
    for (const [a, b, c] of [[i, j, k], [i, k, j], [j, i, k], [j, k, i], [k, i, j], [k, j, i]])
      rank[(a * n + b) * n + c] = next;
  const words = new Uint32Array(atlasSize(count, n));
  for (let c = 0, w = 0; c < count; c++) {
    const from = c * bytes;
    for (let r = 0; r < n * n; r++, w++) {
      let word = 0;
      for (let k = 0; k < n; k++) {
        const bit = rank[r * n + k];
        word |= ((packed[from + (bit >> 3)] >> (7 - (bit & 7))) & 1) << k;
      }
      words[w] = word;
    }
  }
  return words;
}

function atlasSize(count, n) { return Math.max(1, Math.ceil(count * n * n / (1 << SHIFT))) << SHIFT; }

/** Octants of half the edge: a voxel is solid where at least half of its eight are. */
function halve(words, count, n) {
  const m = n / 2, out = new Uint32Array(atlasSize(count, m));
  for (let c = 0; c < count; c++) for (let i = 0; i < m; i++) for (let j = 0; j < m; j++) {
    const at = (c * n + 2 * i) * n + 2 * j;
    const four = [words[at], words[at + 1], words[at + n], words[at + n + 1]];
    let word = 0;
    for (let k = 0; k < m; k++) {
      let solid = 0;
      for (const w of four) solid += ((w >>> (2 * k)) & 1) + ((w >>> (2 * k + 1)) & 1);
      if (solid >= 4) word |= 1 << k;
    }
    out[(c * m + i) * m + j] = word;
  }
  return out;
}

class Viewer {
  constructor(root, scene) {
    this.root = root;
    this.scene = scene;
    this.canvas = root.querySelector("canvas.picture");
    this.grid = scene.shape;
    this.lo = [0, 0, 0];
    this.hi = [...this.grid];
    this.cellsShown = false;
    this.hidden = new Set();
    this.scale = 1;
    this.unit = 34;
    this.times = [];
    this.frames = 0;
    this.overview();
  }

  async start() {
    const s = this.scene;
    const gl = this.canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL2");
    this.gl = gl;
    this.region = await inflate(s.region);
    const index = await inflate(s.index);
    this.index = new Uint32Array(index.buffer);
    this.octants = await inflate(s.octants);
    this.bytes = await Promise.all(s.fields.map(f => inflate(f.data)));
    this.build();
    this.setField(0);
    this.setHidden();
    this.controls();
    new ResizeObserver(() => this.resize()).observe(this.canvas.parentElement);
    this.resize();
    const loop = now => { this.tick(now); requestAnimationFrame(loop); };
    requestAnimationFrame(loop);
  }

  // ---- WebGL
  build() {
    const gl = this.gl, program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.bindVertexArray(gl.createVertexArray());
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.at = name => gl.getUniformLocation(program, name);
    this.where = Object.fromEntries(["eye", "right", "up", "ahead", "size", "shift", "lo", "hi", "grid", "cells",
      "field", "palette", "atlas", "n", "categories", "picking", "lines", "thick"].map(name => [name, this.at(name)]));
    ["cells", "field", "palette", "atlas"].forEach((name, unit) => gl.uniform1i(this.where[name], unit));
    gl.uniform3i(this.where.grid, ...this.grid);
    this.textures = [gl.TEXTURE_3D, gl.TEXTURE_3D, gl.TEXTURE_2D].map((target, unit) => this.texture(target, unit));
    this.levels = [];
    const count = this.scene.cells;
    for (let n = this.scene.n, words = unpackOctants(this.octants, count, n); ; n /= 2) {
      const texture = this.texture(gl.TEXTURE_2D, 3);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32UI, 1 << SHIFT, words.length >> SHIFT, 0, gl.RED_INTEGER, gl.UNSIGNED_INT, words);
      this.levels.push({ n, texture });
      if (n % 2 || n <= 4) break;
      words = halve(words, count, n);
    }
    this.buffer = gl.createFramebuffer();
    this.target = gl.createTexture();
    gl.activeTexture(gl.TEXTURE4);
    gl.bindTexture(gl.TEXTURE_2D, this.target);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  }

  texture(target, unit) {
    const gl = this.gl, texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(target, texture);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(target, key, gl.NEAREST);
    return texture;
  }

  // Array order is [x, y, z] with z fastest; a texture's fastest axis is its first, so axes are turned here.
  volume(unit, internal, format, type, data) {
    const gl = this.gl, [nx, ny, nz] = this.grid, out = new data.constructor(data.length);
    for (let i = 0, at = 0; i < nx; i++) for (let j = 0; j < ny; j++) for (let k = 0; k < nz; k++, at++)
      out[(k * ny + j) * nx + i] = data[at];
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.texImage3D(gl.TEXTURE_3D, 0, internal, nx, ny, nz, 0, format, type, out);
  }

  setField(number) {
    const gl = this.gl, field = this.scene.fields[number];
    this.number = number;
    this.volume(1, gl.R8, gl.RED, gl.UNSIGNED_BYTE, this.bytes[number]);
    const colours = Uint8Array.from(atob(this.scene.palettes[field.palette]), c => c.charCodeAt(0));
    gl.activeTexture(gl.TEXTURE2);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB8, 256, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, colours);
    this.legend(field, colours);
    this.change();
  }

  setHidden() {
    const gl = this.gl, kept = this.index.slice();
    for (let at = 0; at < kept.length; at++) if (this.hidden.has(this.region[at])) kept[at] = 0;
    this.kept = kept;
    this.volume(0, gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT, kept);
    this.change();
  }

  // ---- camera
  overview() {
    this.focus = this.lo.map((v, i) => (v + this.hi[i]) / 2);
    this.yaw ??= -0.6;
    this.pitch ??= 0.42;
    this.distance = 0.56 * Math.hypot(...this.lo.map((v, i) => this.hi[i] - v)) / Math.sin(FOV / 2);
  }

  camera() {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    const ahead = [sy * cp, -sp, -cy * cp], right = [cy, 0, sy], up = [sy * sp, cp, -cy * sp];
    return { ahead, right, up, eye: this.focus.map((f, i) => f - this.distance * ahead[i]) };
  }

  /** Octant edge to draw with: voxels about as large as the nearest element's pixels; 0 draws boxes. */
  level(height) {
    if (!this.cellsShown) return null;
    const { eye } = this.camera();
    const gap = Math.hypot(...eye.map((v, i) => Math.max(this.lo[i] - v, 0, v - this.hi[i])));
    const pixels = height / (2 * Math.tan(FOV / 2) * Math.max(gap, 0.5));
    // At rest several passes are averaged, which shows voxels smaller than a pixel.
    return this.levels.find(l => 2 * l.n <= (this.moving ? 1.3 : 2.6) * pixels) ?? this.levels.at(-1);
  }

  draw(width, height, shift, picking = false) {
    const gl = this.gl, w = this.where, { eye, ahead, right, up } = this.camera(), half = Math.tan(FOV / 2);
    const level = this.level(height);
    gl.uniform4fv(w.lines, this.outline(width, height));
    gl.uniform1f(w.thick, 1.2 * width / this.canvas.clientWidth);
    gl.uniform3fv(w.eye, eye);
    gl.uniform3fv(w.ahead, ahead);
    gl.uniform3fv(w.right, right.map(v => v * half));
    gl.uniform3fv(w.up, up.map(v => v * half));
    gl.uniform3fv(w.lo, this.lo);
    gl.uniform3fv(w.hi, this.hi);
    gl.uniform2f(w.size, width, height);
    gl.uniform2fv(w.shift, shift);
    gl.uniform1i(w.n, level ? level.n : 0);
    gl.uniform1i(w.categories, this.scene.fields[this.number].categories ? 1 : 0);
    gl.uniform1i(w.picking, picking ? 1 : 0);
    gl.activeTexture(gl.TEXTURE3);
    gl.bindTexture(gl.TEXTURE_2D, (level ?? this.levels[0]).texture);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    this.drawn = level ? level.n : 0;
  }

  /** Size of the picture while something moves. */
  get small() { return this.full.map(v => Math.max(1, Math.round(v * this.scale))); }

  /** One picture while something moves: small if need be, stretched by the browser. */
  quick() {
    const gl = this.gl, [w, h] = this.small;
    this.fit(w, h);
    gl.disable(gl.BLEND);
    gl.viewport(0, 0, w, h);
    this.draw(w, h, [0, 0]);
    this.letters();
  }

  fit(width, height) {
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
  }

  /** The same on a canvas of full size, to be sharpened band by band. */
  settle() {
    const gl = this.gl, [w, h] = this.small, [width, height] = this.full;
    this.fit(width, height);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
    gl.viewport(0, 0, w, h);
    this.draw(w, h, [0, 0]);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.blitFramebuffer(0, 0, w, h, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.LINEAR);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    this.letters();
  }

  /** A band of a jittered pass at full sharpness, averaged with those before it. */
  refine() {
    const gl = this.gl, [width, height] = this.full;
    if (this.pass === 0 && this.band === 0) this.settle();
    const bands = Math.max(1, Math.min(32, Math.ceil(this.cost * width * height / 60)));
    const tall = Math.ceil(height / bands);
    const pass = this.pass, low = this.band * tall;
    gl.viewport(0, 0, width, height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(0, low, width, tall);
    gl.enable(gl.BLEND);
    gl.blendColor(0, 0, 0, 1 / (pass + 1));
    gl.blendFunc(gl.CONSTANT_ALPHA, gl.ONE_MINUS_CONSTANT_ALPHA);
    // Points of an additive recurrence (Roberts, 2018) fill the pixel evenly.
    const shift = pass ? [(pass * 0.7548776662) % 1 - 0.5, (pass * 0.5698402909) % 1 - 0.5] : [0, 0];
    this.draw(width, height, shift);
    gl.disable(gl.SCISSOR_TEST);
    this.band++;
    if (this.band * tall >= height) { this.band = 0; this.pass++; }
  }

  change() { this.moved = performance.now(); this.moving = true; this.dirty = true; this.pass = 0; this.band = 0; }

  tick(now) {
    if (this.spinning) { this.yaw += 0.0006 * Math.min(now - (this.last ?? now), 100); this.change(); }
    const interval = now - (this.last ?? now);
    this.last = now;
    if (this.moving && this.dirty) {
      // The time between two frames says what the last one cost, on whatever draws it.
      if (this.drew && interval > 0 && interval < 2000) {
        this.times.push(interval);
        if (this.times.length > 60) this.times.shift();
        this.cost = 0.7 * (this.cost ?? 0) + 0.3 * interval / (this.full[0] * this.full[1] * this.scale ** 2);
        // In steps, since each new size costs a new canvas; between them it stays as it is.
        this.aim = Math.min(1, Math.max(0.16, (this.aim ?? 1) * Math.min(1.08, Math.max(0.6, Math.sqrt(34 / interval)))));
        if (this.aim === 1 || Math.abs(Math.log(this.aim / this.scale)) > 0.25) this.scale = this.aim;
      }
      this.dirty = false;
      this.drew = true;
      this.quick();
      this.frames++;
    } else {
      this.drew = false;
      if (this.moving && now - this.moved > 220) this.moving = false;
      if (!this.moving && this.pass < PASSES) this.refine();
    }
    this.status();
  }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(box.width * ratio)), height = Math.max(1, Math.round(box.height * ratio));
    this.full = [width, height];
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE4);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.target, 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    this.cost ??= 0;
    this.change();
  }

  /** The element under a point of the canvas, or -1. */
  pick(x, y) {
    const gl = this.gl, ratio = this.full[0] / this.canvas.clientWidth, pixel = new Uint8Array(4);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
    gl.viewport(0, 0, 1, 1);
    this.draw(...this.full, [x * ratio, this.full[1] - y * ratio], true);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    return pixel[0] + 256 * pixel[1] + 65536 * pixel[2] - 1;
  }

  place(at) { const [, ny, nz] = this.grid; return [Math.floor(at / (ny * nz)), Math.floor(at / nz) % ny, at % nz]; }

  // ---- what stands around the picture
  /** Ends of the grid's edges and of the axes, in pixels from below left. */
  outline(width, height) {
    const { eye, ahead, right, up } = this.camera(), scale = height / (2 * Math.tan(FOV / 2)), out = [];
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    for (let axis = 0; axis < 3; axis++) for (let corner = 0; corner < 4; corner++) {
      const ends = [0, 1].map(end => {
        const p = [0, 0, 0];
        p[axis] = end * this.grid[axis];
        p[(axis + 1) % 3] = (corner & 1) * this.grid[(axis + 1) % 3];
        p[(axis + 2) % 3] = (corner >> 1) * this.grid[(axis + 2) % 3];
        const d = p.map((v, i) => v - eye[i]);
        return [dot(d, right), dot(d, up), dot(d, ahead)];
      });
      const near = 0.1, [a, b] = ends;
      if (a[2] < near && b[2] < near) { out.push(-9, -9, -9, -9); continue; }
      for (const [p, q] of [[a, b], [b, a]]) {      // what lies behind the eye is cut off
        const share = p[2] < near ? (near - p[2]) / (q[2] - p[2]) : 0;
        const [x, y, z] = p.map((v, i) => v + share * (q[i] - v));
        out.push(width / 2 + x / z * scale, height / 2 + y / z * scale);
      }
    }
    const unit = this.unit * width / this.canvas.clientWidth, at = 1.5 * unit;
    for (let axis = 0; axis < 3; axis++) out.push(at, at, at + right[axis] * unit, at + up[axis] * unit);
    return out;
  }

  letters() {
    const { right, up } = this.camera(), height = this.canvas.clientHeight, unit = this.unit;
    this.root.querySelectorAll(".axis").forEach((letter, axis) => {
      const x = unit * (1.5 + 1.25 * right[axis]) - 4, y = height - unit * (1.5 + 1.25 * up[axis]) - 7;
      letter.style.transform = `translate(${x}px, ${y}px)`;
    });
  }

  part(name) { return this.root.querySelector(`[data-part=${name}]`); }

  legend(field, colours) {
    const rgb = i => `rgb(${colours[3 * i]},${colours[3 * i + 1]},${colours[3 * i + 2]})`, bar = this.part("legend");
    if (field.categories) {
      bar.innerHTML = field.categories.map((name, i) => `<span><i style="background:${rgb(i)}"></i>${name}</span>`).join(" ");
      return;
    }
    const stops = Array.from({ length: 17 }, (_, i) => rgb(Math.round(i * 255 / 16))).join(",");
    bar.innerHTML = `<b style="background:linear-gradient(90deg,${stops})"></b>` +
      `<span>${field.low.toPrecision(3)}</span><span>${field.log ? "log scale" : ""} ${field.unit}</span><span>${field.high.toPrecision(3)}</span>`;
  }

  value(field, byte) {
    if (!byte) return "–";
    if (field.categories) return field.categories[byte - 1];
    const s = (byte - 1) / 254;
    const v = field.log ? field.low * (field.high / field.low) ** s : field.low + s * (field.high - field.low);
    return `${v.toPrecision(3)} ${field.unit}`;
  }

  describe(at) {
    const box = this.part("element");
    if (at < 0) { box.innerHTML = "<p>Point at an element for its values; double-click for a close-up.</p>"; return; }
    const rows = this.scene.fields.map((f, i) => `<tr><td>${f.name}</td><td>${this.value(f, this.bytes[i][at])}</td></tr>`);
    box.innerHTML = `<p>Element [${this.place(at).join(", ")}], unique cell ${this.index[at] - 1}</p><table>${rows.join("")}</table>`;
  }

  status() {
    const low = this.lo.map(Math.floor), high = this.hi.map(Math.ceil), [, ny, nz] = this.grid;
    const key = `${low}|${high}|${this.hidden.size}|${[...this.hidden]}`;
    if (key !== this.counted) {
      this.counted = key;
      this.count = 0;
      for (let i = low[0]; i < high[0]; i++) for (let j = low[1]; j < high[1]; j++) for (let k = low[2]; k < high[2]; k++)
        if (this.kept[(i * ny + j) * nz + k]) this.count++;
    }
    const what = this.drawn ? `their own cells, ${2 * this.drawn} voxels an edge (stored: ${this.scene.voxels})` : "boxes";
    const sharp = this.moving ? `${Math.round(100 * this.scale)} % sharp while it moves` : this.pass < PASSES ? "sharpening" : "sharp";
    const text = `${this.count.toLocaleString("en")} of ${this.scene.solid.toLocaleString("en")} elements as ${what}; ${sharp}`;
    if (text !== this.said) this.part("status").textContent = this.said = text;
  }

  slice(lo, hi) {
    this.lo = [...lo];
    this.hi = [...hi];
    for (let axis = 0; axis < 3; axis++) {
      this.sliders[axis][0].value = lo[axis];
      this.sliders[axis][1].value = hi[axis];
    }
    this.change();
  }

  /** The block of elements around one, as real cells, filling the picture. */
  closeUp(element, reach = 1) {
    this.slice(element.map(v => Math.max(v - reach, 0)), element.map((v, i) => Math.min(v + reach + 1, this.grid[i])));
    this.show(true);
    this.overview();
  }

  show(cells) {
    this.cellsShown = cells;
    this.part("cells").checked = cells;
    this.change();
  }

  controls() {
    const s = this.scene, select = this.part("field");
    s.fields.forEach((f, i) => select.add(new Option(f.name, i)));
    select.onchange = () => this.setField(+select.value);
    this.part("cells").onchange = e => this.show(e.target.checked);
    const regions = this.part("regions");
    s.regions.forEach((name, i) => {
      if (!s.filled.includes(i)) return;
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.onchange = () => { box.checked ? this.hidden.delete(i) : this.hidden.add(i); this.setHidden(); };
      label.append(box, ` ${name}`);
      regions.append(label);
    });
    this.sliders = ["x", "y", "z"].map((axis, a) => {
      const pair = [0, 1].map(end => {
        const input = document.createElement("input");
        Object.assign(input, { type: "range", min: 0, max: this.grid[a], step: 0.25, value: end * this.grid[a] });
        input.setAttribute("aria-label", `${axis} ${end ? "to" : "from"}`);
        input.oninput = () => {
          const v = +input.value;
          if (end) this.hi[a] = Math.max(v, this.lo[a] + 0.25); else this.lo[a] = Math.min(v, this.hi[a] - 0.25);
          input.value = end ? this.hi[a] : this.lo[a];
          this.change();
        };
        return input;
      });
      const row = document.createElement("div");
      row.className = "slice";
      row.append(axis, ...pair);
      this.part("slices").append(row);
      return pair;
    });
    const whole = () => this.slice([0, 0, 0], this.grid), half = this.grid.map(v => v / 2);
    const actions = {
      whole: () => { whole(); this.overview(); },
      halfz: () => { this.slice([0, 0, 0], [this.grid[0], this.grid[1], half[2]]); },
      halfx: () => { this.slice([0, 0, 0], [half[0], this.grid[1], this.grid[2]]); },
      layer: () => { this.slice([0, 0, Math.floor(half[2])], [this.grid[0], this.grid[1], Math.floor(half[2]) + 1]); },
      spin: () => { this.spinning = !this.spinning; },
    };
    for (const button of this.root.querySelectorAll("button[data-do]")) button.onclick = () => { actions[button.dataset.do](); this.change(); };
    const canvas = this.canvas;
    canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); this.drag = [e.clientX, e.clientY]; };
    canvas.onpointerup = canvas.onpointercancel = () => { this.drag = null; };
    canvas.onpointermove = e => {
      if (!this.drag) { if (!this.moving) this.describe(this.pick(e.offsetX, e.offsetY)); return; }
      const dx = e.clientX - this.drag[0], dy = e.clientY - this.drag[1], { right, up } = this.camera();
      this.drag = [e.clientX, e.clientY];
      if (e.buttons & 2 || e.shiftKey) {
        const step = 2 * Math.tan(FOV / 2) * this.distance / canvas.clientHeight;
        this.focus = this.focus.map((v, i) => v - step * (dx * right[i] - dy * up[i]));
      } else this.turn(dx * 0.008, dy * 0.008);
      this.change();
    };
    canvas.oncontextmenu = e => e.preventDefault();
    canvas.ondblclick = e => { const at = this.pick(e.offsetX, e.offsetY); if (at >= 0) this.closeUp(this.place(at)); };
    canvas.addEventListener("wheel", e => {
      e.preventDefault();
      this.distance = Math.max(0.4, this.distance * Math.exp(0.0012 * e.deltaY));
      this.change();
    }, { passive: false });
    canvas.onkeydown = e => {
      const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
      if (turn) { e.preventDefault(); this.turn(...turn); }
    };
    for (const link of document.querySelectorAll("[data-element]")) link.onclick = () => {
      this.closeUp(link.dataset.element.split(",").map(Number));
      this.root.scrollIntoView();
    };
    this.describe(-1);
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(1.55, Math.max(-1.55, this.pitch + pitch));
    this.change();
  }

  /** Turn once around in so many frames; frames a second and the sharpness it settled at. */
  async measure(frames = 90) {
    const wait = () => new Promise(done => requestAnimationFrame(done));
    const run = async count => { for (let i = 0; i < count; i++) { this.turn(2 * Math.PI / count, 0); await wait(); } };
    await run(30);
    const start = performance.now(), before = this.frames;
    await run(frames);
    this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the last
    return { fps: 1000 * (this.frames - before) / (performance.now() - start), scale: this.scale, octant: this.drawn,
      width: this.full[0], height: this.full[1], renderer: this.gl.getParameter(this.gl.RENDERER) };
  }
}

window.viewer = (async () => {
  const root = document.getElementById("viewer");
  try {
    const viewer = new Viewer(root, JSON.parse(document.getElementById("scene").textContent));
    await viewer.start();
    return viewer;
  } catch (error) {
    root.querySelector(".stage").innerHTML = `<p class="missing">The interactive view can't be shown: ${error.message}. The figures below do not need it.</p>`;
    throw error;
  }
})();
