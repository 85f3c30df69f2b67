// A stock client's ScoreStream: every batch is answered once, and a small one does not wait for a large one before it.
//
//   node reward_stream.mjs REWARD       exits 1 with the failed assertion
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../../..');
const require = createRequire(path.join(root, 'build/npm/package.json'));
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const { RewardService } = grpc.loadPackageDefinition(loader.loadSync('espalier/v1/reward_service.proto', {
  includeDirs: [path.join(root, 'protos')], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true,
})).espalier.v1;
const client = new RewardService(process.argv[2], grpc.credentials.createInsecure());

const batch = (id, traces, words) => ({ batch_id: id, batch: {
  reference: String(id),
  traces: Array.from({ length: traces }, (_, index) => ({
    trace_id: `${id}/${index}`, text: `${'Then we go on. '.repeat(words)}The answer is ${id + index}.` })) } });

const answers = [];
const status = await new Promise((resolve) => {
  const stream = client.ScoreStream({ deadline: Date.now() + 60000 });
  stream.on('data', (answer) => answers.push(answer));
  stream.on('error', () => {});
  stream.on('status', resolve);
  // The first is the longest by far: nearly 1 MiB in one trace.
  stream.write(batch(1000, 1, 65000));
  for (let id = 1; id <= 300; id += 1) stream.write(batch(id, 1 + (id % 5), id % 40));
  stream.write({ batch_id: 5000, batch: { reference: '1' } });
  stream.end();
});
assert.equal(status.code, grpc.status.OK, status.details);
assert.equal(answers.length, 302);
assert.equal(new Set(answers.map((answer) => answer.batch_id)).size, 302, 'each batch is answered once');
for (const answer of answers) {
  if (answer.batch_id === 5000) {
    assert.match(answer.error, /traces: found 0/);
  } else {
    assert.equal(answer.error, '');
    assert.equal(answer.batch.scores[0].trace_id, `${answer.batch_id}/0`);
    assert.equal(answer.batch.scores[0].verdict, 'VERDICT_CORRECT', answer.batch.scores[0].reason);
    assert.ok(answer.batch.scores.slice(1).every((score) => score.verdict === 'VERDICT_WRONG'));
  }
}
const place = answers.findIndex((answer) => answer.batch_id === 1000);
assert.ok(place > 0, 'the long batch came first, although others were ready');
console.log(`ok: ${answers.length} answers, the long batch in place ${place}`);
process.exit(0);
