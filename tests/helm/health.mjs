// Asks a port for its health by gRPC, as the kubelet's probe does: prints SERVING or what else it says.
//   node health.mjs 127.0.0.1:7081        (run in a folder that has @grpc/grpc-js)
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(path.resolve('package.json'));
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protos = path.join(path.dirname(fileURLToPath(import.meta.url)), '../e2e/js/protos');
const { Health } = grpc.loadPackageDefinition(loader.loadSync('health.proto', { includeDirs: [protos], enums: String, defaults: true })).grpc.health.v1;
new Health(process.argv[2], grpc.credentials.createInsecure()).Check({ service: '' }, { deadline: Date.now() + 5000 }, (error, answer) => {
  console.log(error ? error.message : answer.status);
  process.exit(error ? 1 : 0);
});
