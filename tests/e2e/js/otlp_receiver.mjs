// A third-party OTLP receiver: @grpc/grpc-js with the .proto files that OpenTelemetry publishes. Every span it gets is a line of JSON
// on standard output; the first line is its port.
//
//   node otlp_receiver.mjs [PORT]
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

// Packages live in build/npm, not beside this file.
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const require = createRequire(path.join(root, 'build/npm/package.json'));
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const protos = path.join(root, 'build/npm/node_modules/@opentelemetry/otlp-grpc-exporter-base/build/protos');
const otlp = grpc.loadPackageDefinition(loader.loadSync('opentelemetry/proto/collector/trace/v1/trace_service.proto', {
  includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }));

const plain = (attributes) => Object.fromEntries(attributes.map(({ key, value }) => {
  const held = value[value.value];
  return [key, value.value === 'int_value' ? Number(held) : held];
}));
const hex = (bytes) => Buffer.from(bytes).toString('hex');

function record({ request }, callback) {
  for (const { resource, scope_spans: scopes } of request.resource_spans) {
    const service = plain(resource.attributes)['service.name'];
    for (const span of scopes.flatMap((scope) => scope.spans)) {
      process.stdout.write(`${JSON.stringify({
        service, name: span.name, kind: span.kind, trace: hex(span.trace_id), span: hex(span.span_id),
        parent: hex(span.parent_span_id), start: span.start_time_unix_nano, end: span.end_time_unix_nano,
        attributes: plain(span.attributes), status: span.status,
        links: span.links.map((link) => ({ trace: hex(link.trace_id), span: hex(link.span_id) })) })}\n`);
    }
  }
  callback(null, {});
}

const server = new grpc.Server();
server.addService(otlp.opentelemetry.proto.collector.trace.v1.TraceService.service, { Export: record });
server.bindAsync(`127.0.0.1:${process.argv[2] ?? 0}`, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.stdout.write(`${JSON.stringify({ port })}\n`);
});
