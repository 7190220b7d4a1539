// Builds the page into `dist/`, which is checked in: whoever builds the relay needs no Node. Mode `unit` bundles the
// unit tests instead.
import { readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

/** What the license of uPlot asks of whoever passes it on. */
const notice = `/*! uPlot ${version("uplot")}, https://github.com/leeoniya/uPlot
${readFileSync(new URL("node_modules/uplot/LICENSE", import.meta.url), "utf8").trim()}
*/
`;

function version(name: string): string {
  const manifest = readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}

/** The table of assets that `controlplane/src/http/page.rs` includes: their names change with what is in them. */
function table(): Plugin {
  return {
    name: "table-of-assets",
    enforce: "post",
    generateBundle(_options, bundle) {
      const names = Object.keys(bundle).filter((name) => name.startsWith("assets/")).sort();
      const rows = names.map((name) => `    Asset { path: "/${name}", octets: include_bytes!("${name}") },\n`);
      this.emitFile({ type: "asset", fileName: "assets.rs", source: `&[\n${rows.join("")}]\n` });
    },
  };
}

export default defineConfig(({ mode }) =>
  mode === "unit"
    ? {
        build: {
          ssr: "unit/all.ts",
          outDir: "target",
          emptyOutDir: false,
          rollupOptions: { output: { entryFileNames: "unit.mjs" } },
        },
      }
    : {
        // Wherever the relay is reached, also behind a prefix of a proxy.
        base: "./",
        build: {
          target: "es2023",
          modulePreload: { polyfill: false },
          // A data: script or style would be refused by the content security policy.
          assetsInlineLimit: 0,
          rollupOptions: {
            output: {
              entryFileNames: "assets/page-[hash].js",
              assetFileNames: "assets/page-[hash][extname]",
              postBanner: (chunk) => (chunk.isEntry ? notice : ""),
            },
          },
        },
        plugins: [table()],
      },
);
