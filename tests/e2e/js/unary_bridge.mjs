// Carries unary gRPC calls for a program that has no gRPC of its own: frames on standard input and output, the
// messages' bytes untouched.
//
//   node unary_bridge.mjs ADDRESS     request: size path size bytes; response: ok(1) size bytes, or 0 size "CODE\ntext"
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const require = createRequire(path.resolve(here, '../../../build/npm/package.json'));
const grpc = require('@grpc/grpc-js');

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const same = (bytes) => bytes;

function answer(ok, bytes) {
  const head = Buffer.alloc(5);
  head.writeUInt8(ok ? 1 : 0, 0);
  head.writeUInt32BE(bytes.length, 1);
  process.stdout.write(Buffer.concat([head, bytes]));
}

let waiting = Buffer.alloc(0);
process.stdin.on('data', (chunk) => {
  waiting = Buffer.concat([waiting, chunk]);
  for (;;) {
    if (waiting.length < 4) return;
    const name = waiting.readUInt32BE(0);
    if (waiting.length < 8 + name) return;
    const size = waiting.readUInt32BE(4 + name);
    if (waiting.length < 8 + name + size) return;
    const method = waiting.toString('utf8', 4, 4 + name);
    const request = Buffer.from(waiting.subarray(8 + name, 8 + name + size));
    waiting = waiting.subarray(8 + name + size);
    client.makeUnaryRequest(method, same, same, request, { deadline: Date.now() + 20000 }, (error, response) => {
      if (error) answer(false, Buffer.from(`${grpc.status[error.code]}\n${error.details}`));
      else answer(true, response);
    });
  }
});
process.stdin.on('end', () => process.exit(0));
