// Writes one strict JSON schema of Kubernetes' own objects, made from the types of `kubernetes-types`: unknown fields are errors.
//   node make_schemas.mjs OUT.json          (run in the folder that has the packages)
import { createRequire } from 'node:module';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const [out] = process.argv.slice(2);
const require = createRequire(path.resolve('package.json'));
const { createGenerator } = require('ts-json-schema-generator');
const kinds = {
  'v1/Service': ['core/v1', 'Service'], 'v1/ConfigMap': ['core/v1', 'ConfigMap'], 'v1/Pod': ['core/v1', 'Pod'],
  'v1/PersistentVolumeClaim': ['core/v1', 'PersistentVolumeClaim'], 'v1/ServiceAccount': ['core/v1', 'ServiceAccount'],
  'apps/v1/Deployment': ['apps/v1', 'Deployment'], 'apps/v1/StatefulSet': ['apps/v1', 'StatefulSet'],
  'batch/v1/Job': ['batch/v1', 'Job'], 'batch/v1/CronJob': ['batch/v1', 'CronJob'],
  'autoscaling/v2/HorizontalPodAutoscaler': ['autoscaling/v2', 'HorizontalPodAutoscaler'],
  'policy/v1/PodDisruptionBudget': ['policy/v1', 'PodDisruptionBudget'],
  'networking.k8s.io/v1/NetworkPolicy': ['networking/v1', 'NetworkPolicy'],
  'scheduling.k8s.io/v1/PriorityClass': ['scheduling/v1', 'PriorityClass'],
  // Templates within custom resources.
  JobSpec: ['batch/v1', 'JobSpec'],
};
const folder = mkdtempSync(path.resolve('.types-'));
const source = path.join(folder, 'objects.ts');
const names = Object.entries(kinds).map(([key, [module, type]], i) => ({ key, module, type, as: `T${i}` }));
writeFileSync(source, names.map(({ module, type, as }) => `import { ${type} as ${as} } from 'kubernetes-types/${module}';\n`).join('') +
  `export interface Objects {\n${names.map(({ key, as }) => `  '${key}': ${as};\n`).join('')}}\n`);
const schema = createGenerator({ path: source, type: 'Objects', additionalProperties: false, skipTypeCheck: true, expose: 'all',
  topRef: false, jsDoc: 'none', encodeRefs: false }).createSchema('Objects');
rmSync(folder, { recursive: true });
writeFileSync(out, JSON.stringify(schema));
