// A stock third-party client drives the suite with nothing but @grpc/grpc-js and the .proto files: health, reflection, a bad spec,
// a run submitted and watched to its end, a trace scored.
//
//   node client.mjs COORDINATOR REWARD SPEC.json       exits 1 with the failed assertion
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

// Packages live in build/npm, not beside this file.
const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, '../../..');
const require = createRequire(path.join(root, 'build/npm/package.json'));
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [coordinator, reward, specPath] = process.argv.slice(2);
const load = (file, include) => grpc.loadPackageDefinition(loader.loadSync(file, {
  includeDirs: [include], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }));
const protos = path.join(root, 'protos');
const api = (name) => load(`espalier/v1/${name}.proto`, protos).espalier.v1;
const client = (Service, address) => new Service(address, grpc.credentials.createInsecure());
const unary = (target, method, request) => new Promise((resolve, reject) => {
  target[method](request, { deadline: Date.now() + 20000 }, (error, response) => (error ? reject(error) : resolve(response)));
});

const { Health } = load('health.proto', path.join(here, 'protos')).grpc.health.v1;
const { ServerReflection } = load('reflection.proto', path.join(here, 'protos')).grpc.reflection.v1alpha;
const runs = client(api('run_service').RunService, coordinator);
const history = client(api('history_service').HistoryService, coordinator);
const rewards = client(api('reward_service').RewardService, reward);

for (const address of [coordinator, reward]) {
  const health = await unary(client(Health, address), 'Check', { service: '' });
  assert.equal(health.status, 'SERVING', address);
}

const listServices = (address) => new Promise((resolve, reject) => {
  const stream = client(ServerReflection, address).ServerReflectionInfo();
  stream.on('data', (word) => { resolve(word.list_services_response.service.map((one) => one.name)); stream.end(); });
  stream.on('error', reject);
  stream.write({ list_services: '*' });
});
const names = await listServices(coordinator);
for (const service of ['RunService', 'FleetService', 'HistoryService', 'PlanService']) {
  assert.ok(names.includes(`espalier.v1.${service}`), `${service} in ${names}`);
}
assert.ok((await listServices(reward)).includes('espalier.v1.RewardService'));

const { score } = await unary(rewards, 'ScoreTrace', {
  reference: '14', trace: { trace_id: 't1', text: '12 + 7 = 19. 19 - 5 = 14. The answer is 14.', token_count: 20 } });
assert.equal(score.verdict, 'VERDICT_CORRECT', score.reason);
assert.equal(score.reflections, 0);
const again = await unary(rewards, 'ScoreTrace', {
  reference: '14', trace: { text: '19 - 5 = 14. The answer is 14. Wait, let me check. 19 - 5 = 14. The answer is 14.', token_count: 40 } });
assert.equal(again.score.reflections, 1);
assert.ok(again.score.total < score.total, 'a needless re-check costs something');
const wrong = await unary(rewards, 'ScoreTrace', { reference: '14', trace: { text: 'The answer is 15.' } });
assert.equal(wrong.score.verdict, 'VERDICT_WRONG');
assert.ok(wrong.score.total <= 0, 'a wrong trace earns nothing in the safe form');

const spec = JSON.parse(readFileSync(specPath, 'utf8'));
await assert.rejects(
  unary(runs, 'SubmitRun', { spec: { ...spec, model: { ...spec.model, top_k: 500 } } }),
  (error) => error.code === grpc.status.INVALID_ARGUMENT && /model\.top_k/.test(error.details) && /500/.test(error.details));
assert.equal((await unary(runs, 'ListRuns', {})).runs.length, 0, 'a refused spec leaves nothing behind');

const request = { spec, request_id: 'js-client-1' };
const { run } = await unary(runs, 'SubmitRun', request);
const repeated = await unary(runs, 'SubmitRun', request);
assert.equal(repeated.run.run_id, run.run_id, 'the same request_id gives the same run');

const last = await new Promise((resolve, reject) => {
  let newest;
  let revision = -1n;
  const stream = runs.WatchRun({ run_id: run.run_id });
  stream.on('data', (word) => {
    assert.ok(BigInt(word.run.revision) >= revision, 'revisions only grow');
    revision = BigInt(word.run.revision);
    newest = word.run;
  });
  stream.on('error', reject);
  stream.on('end', () => resolve(newest));
});
assert.equal(last.state, 'RUN_STATE_COMPLETED', last.detail);
assert.ok(last.export_path, 'an export was written');
const { points } = await unary(history, 'GetSeries', { run_id: run.run_id });
assert.ok(points.length > 10 && points.every((point) => Number.isFinite(point.loss)));
const { layers } = await unary(history, 'GetLoads', { run_id: run.run_id, rows_max: 50 });
assert.equal(layers.length, spec.model.layers);
assert.ok(layers.every((layer) => layer.tokens.length === layer.first_steps.length * layer.experts));
console.log(`ok: ${run.run_id} completed, ${points.length} points, export ${last.export_path}`);
process.exit(0);
