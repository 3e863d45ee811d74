// Workload for node: JSON, regular expressions, cryptography, compression, sorting, promises. Runs until it is ended.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');

let state = 4711;
function random() {
	state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
	return state / 4294967296;
}

function json() {
	const data = {};
	for (let i = 0; i < 200; i++)
		data['key' + i] = [random(), { nested: 'text'.repeat(random() * 20) }, null];
	return JSON.stringify(JSON.parse(JSON.stringify(data, null, 1))).length;
}

function text() {
	let all = '';
	for (let i = 0; i < 1000; i++)
		all += ' word' + Math.floor(random() * 1000);
	return all.replace(/\b([a-z]+)(\d+)\b/g, (_, word, number) => number + word.toUpperCase()).split(' ').length;
}

function hash() {
	const key = crypto.createHash('sha512').update(String(random())).digest();
	const cipher = crypto.createCipheriv('aes-256-gcm', key.subarray(0, 32), key.subarray(32, 44));
	const secret = Buffer.concat([cipher.update(Buffer.alloc(20000, key)), cipher.final()]);
	return crypto.pbkdf2Sync(secret, key, 50, 32, 'sha256').readUInt32LE(0);
}

function compress() {
	return zlib.gunzipSync(zlib.gzipSync(Buffer.from('some text ' + random()).toString('hex').repeat(400))).length;
}

class Shape {
	constructor(size) {
		this.size = size;
	}
	area() {
		return this.size * this.size;
	}
}
class Round extends Shape {
	area() {
		return Math.PI * super.area();
	}
}

function sort() {
	const shapes = [];
	for (let i = 0; i < 3000; i++)
		shapes.push(i % 2 ? new Shape(random()) : new Round(random()));
	shapes.sort((a, b) => a.area() - b.area());
	return new Map(shapes.map((shape, i) => [i, shape.size])).size;
}

async function wait(depth) {
	return depth ? 1 + await wait(depth - 1) : random();
}

function turn() {
	for (const work of [json, text, hash, compress, sort])
		work();
	wait(30).then(() => setImmediate(turn));
}

console.log('started');
turn();
