#!/bin/sh
# Writes schemas.json and units.txt from Grafana's published npm packages. Needs node 20 and npm; the tests need neither.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --legacy-peer-deps \
  @grafana/schema@13.2.1 @grafana/data@13.2.1 react@19 react-dom@19 rxjs@7.8.2 ts-json-schema-generator@2 typescript@5
schema() { # NAME TYPE FILE
  npx ts-json-schema-generator --no-type-check --type "$2" -o "$1.json" \
    --path "node_modules/@grafana/schema/dist/types/raw/$3/x/types.gen.d.ts"
}
schema dashboard Dashboard dashboard
for panel in bargauge stat table timeseries; do
  schema "$panel.options" Options "composable/$panel/panelcfg"
  schema "$panel.custom" FieldConfig "composable/$panel/panelcfg"
done
cat > shrink.cjs <<'EOF'
global.navigator = { language: 'en-US', languages: ['en-US'] };
const fs = require('fs');
const { getValueFormats } = require('@grafana/data');
const words = new Set(['description', '$comment', 'default']);
const shrink = (x) => Array.isArray(x) ? x.map(shrink) : x === null || typeof x !== 'object' ? x
  : Object.fromEntries(Object.entries(x).filter(([k, v]) => !words.has(k) || (v && typeof v === 'object')).map(([k, v]) => [k, shrink(v)]));
const names = fs.readdirSync('.').filter((f) => /^(dashboard|\w+\.(options|custom))\.json$/.test(f)).sort();
const lines = names.map((f) => `${JSON.stringify(f.slice(0, -5))}: ${JSON.stringify(shrink(JSON.parse(fs.readFileSync(f))))}`);
fs.writeFileSync(`${process.argv[2]}/schemas.json`, `{\n${lines.join(',\n')}\n}\n`);
const units = new Set(getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value)));
fs.writeFileSync(`${process.argv[2]}/units.txt`, [...units].sort().join('\n') + '\n');
EOF
node shrink.cjs "$here"
