// Validates objects against strict schemas: Kubernetes' own (make_schemas.mjs) and custom resources (schemas/ beside this file).
//   node validate.mjs SCHEMAS.json CRDS < objects.json      prints one fault a line; exits 1 when there is one
import { createRequire } from 'node:module';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

const [schemas, crds] = process.argv.slice(2);
const require = createRequire(path.resolve('package.json'));
const Ajv = require('ajv').default;
const ajv = new Ajv({ strict: false, allErrors: true, allowUnionTypes: true });
ajv.addSchema(JSON.parse(readFileSync(schemas, 'utf8')), 'kubernetes');
const own = Object.fromEntries(readdirSync(crds).map((file) => [file.replace(/\.json$/, ''), JSON.parse(readFileSync(path.join(crds, file), 'utf8'))]));

let faults = 0;
for (const one of JSON.parse(readFileSync(0, 'utf8'))) {
  const key = `${one.apiVersion}/${one.kind}`;
  const mine = own[key.replaceAll('/', '_')];
  const known = mine || ajv.getSchema('kubernetes').schema.properties[key];
  const check = known && (mine ? ajv.compile(mine) : ajv.getSchema(`kubernetes#/properties/${key.replaceAll('/', '~1')}`));
  if (!check) {
    console.log(`${key} ${one.metadata?.name}: no schema is known`);
    faults += 1;
  } else if (!check(one)) {
    for (const error of check.errors) {
      console.log(`${key} ${one.metadata?.name}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
      faults += 1;
    }
  }
}
process.exit(faults > 0 ? 1 : 0);
