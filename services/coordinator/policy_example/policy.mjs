// A PolicyService in forty lines, for Node: places each layer's experts heaviest first on the rank that is lightest so far, and prunes
// what the built-in policy would prune. Start from it; any language with gRPC will do.
//
//   npm install @grpc/grpc-js @grpc/proto-loader
//   node policy.mjs 127.0.0.1:7100 path/to/protos         then, in the run spec: policy: {service: 127.0.0.1:7100}
import { createRequire } from 'node:module';
import path from 'node:path';

const [address, protos] = process.argv.slice(2);
const require = createRequire(path.resolve('package.json'));  // packages of the folder that it is started in
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { espalier } = grpc.loadPackageDefinition(loader.loadSync('espalier/v1/policy_service.proto', {
  includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true }));

// Ranks of `experts`, aligned, with as many on each rank as an even share allows.
function place(experts, loads, rankCount) {
  const most = Math.ceil(experts.length / rankCount);
  const weight = Array(rankCount).fill(0), held = Array(rankCount).fill(0), ranks = [];
  for (const i of experts.map((_, i) => i).sort((a, b) => loads[b] - loads[a])) {
    let best = -1;
    for (let rank = 0; rank < rankCount; ++rank) {
      if (held[rank] < most && (best < 0 || weight[rank] < weight[best])) best = rank;
    }
    ranks[i] = best;
    weight[best] += loads[i];
    held[best] += 1;
  }
  return ranks;
}

function decidePlan({ request }, answer) {
  const gone = new Map((request.builtin?.layers ?? []).map((layer) => [layer.layer, new Set(layer.pruned)]));
  const layers = request.layers.map(({ layer, experts, loads, prunable }) => {
    const kept = experts.map((id, i) => ({ id, load: loads[i] })).filter(({ id }) => !(prunable && gone.get(layer)?.has(id)));
    return { layer, experts: kept.map(({ id }) => id), ranks: place(kept.map(({ id }) => id), kept.map(({ load }) => load), request.rank_count) };
  });
  answer(null, { layers, policy: 'heaviest-first/1', reason: `heaviest first on steps ${request.first_step} to ${request.last_step}` });
}

const server = new grpc.Server();
server.addService(espalier.v1.PolicyService.service, { DecidePlan: decidePlan });
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`listening on port ${port}`);
});
