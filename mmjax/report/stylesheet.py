"""The stylesheet of the report, for light and dark pages."""

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#667080;--line:#e3e6eb;--accent:#2f6fde;
--good:#17834a;--bad:#c8402f;--c0:#2f6fde;--c1:#d9622b;--c2:#17834a;--c3:#8b4fc6;--c4:#b98a00;--c5:#c2367e}
@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1c2026;--ink:#e5e8ec;--soft:#98a2b0;--line:#2f353d;
--accent:#6ea0ff;--good:#4cc081;--bad:#ff7a68;--c0:#6ea0ff;--c1:#ff9a62;--c2:#4cc081;
--c3:#bd8cf2;--c4:#e3bc3f;--c5:#f27db5}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto
,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 72px}
h1{font-size:26px;line-height:1.25;margin:0 0 10px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 12px;letter-spacing:-.005em}
h3{font-size:15px;margin:22px 0 10px;overflow-wrap:anywhere}
p,.note{color:var(--soft);margin:0 0 12px;max-width:78ch;font-size:14px}
.facts{display:flex;flex-wrap:wrap;gap:6px 22px;margin:0;padding:0;list-style:none;color:var(--soft);font-size:14px}
.facts b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.scroll{overflow-x:auto}.tall{max-height:520px;overflow-y:auto}
.mean{margin:14px 0 0}.mean b{color:var(--ink)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.results{width:100%}
.results+.results{margin-top:22px}
.results caption{text-align:left;font-weight:600;padding:2px 0 6px}
.results th{font-weight:500;color:var(--soft);font-size:13px;padding:4px 10px;text-align:right;white-space:nowrap}
.results thead tr:last-child th{border-bottom:1px solid var(--line)}
.results .group{text-align:center}.results .group span{display:block;border-bottom:1px solid var(--line)}
.results td{padding:7px 10px;text-align:right;white-space:nowrap}
.results tr>:first-child{text-align:left;padding-left:0}
.results td:first-child{font-weight:600}
.results tbody tr+tr td{border-top:1px solid var(--line)}
.results .rate{background:linear-gradient(90deg,color-mix(in srgb,var(--accent) 15%,transparent) var(--v),transparent 0)
no-repeat 0 calc(100% + 5px)/100% 4px content-box border-box}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:14px}
.charts h3{margin:0 0 2px}.charts svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft);min-height:19px}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
.confusion{font-size:12px}
.confusion td{width:38px;height:32px;text-align:center;border:1px solid var(--card);border-radius:5px}
.confusion tbody th{font-weight:500;text-align:right;padding-right:8px;white-space:nowrap}
.confusion thead th{font-weight:500;height:1px;padding:0 0 6px;vertical-align:bottom}
.confusion thead th span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.confusion .axis{color:var(--soft)}
.matrix{width:min(100%,620px);image-rendering:pixelated;border:1px solid var(--line);border-radius:6px;display:block}
.split{display:flex;flex-wrap:wrap;gap:14px 36px;align-items:flex-start}
.split h3{margin-top:0}
.confused{margin:0;padding:0;list-style:none;font-size:14px}.confused li{padding:2px 0}
.confused b{font-variant-numeric:tabular-nums;display:inline-block;min-width:2.4em;font-weight:600}
.matches{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:12px}
.match{display:flex;gap:14px;align-items:flex-start}
.match>img{width:92px;height:92px;object-fit:contain;border-radius:6px;flex:none;background:var(--line)}
.match>div{min-width:0;flex:1}
.match ul{margin:0 0 8px;padding:0;list-style:none;font-weight:600;font-size:14px;line-height:1.35;
overflow-wrap:anywhere}
.match ol{margin:0;padding:0;list-style:none;font-size:13px}
.match li.hit,.match li.miss{display:flex;gap:8px;color:var(--soft);padding:1px 0}
.match li span{flex:1;overflow-wrap:anywhere;line-height:1.4}
.match li b{font-weight:500;font-variant-numeric:tabular-nums}
.match li.hit{color:var(--good)}
.match li::before{content:"";width:1em;flex:none}.match li.hit::before{content:"\\2713"}
.strip p{color:var(--ink);font-weight:600;line-height:1.35;margin:0 0 10px;overflow-wrap:anywhere}
.strip div{display:flex;gap:6px}
.strip figure{margin:0;flex:0 1 92px;min-width:0;text-align:center;font-size:12px;color:var(--soft)}
.strip img{width:100%;aspect-ratio:1;object-fit:contain;display:block;border-radius:6px;background:var(--line);
border:2px solid transparent}
.strip .hit img{border-color:var(--good)}.strip .hit{color:var(--good)}
.strip .hit figcaption::before{content:"\\2713\\a0"}
.scale{display:flex;gap:8px;align-items:center;font-size:12.5px;color:var(--soft);margin:0 0 12px}
.scale i{width:180px;height:9px;border-radius:5px}
.insides{display:grid;gap:12px}
.inside h3{margin:14px 0 8px;font-weight:500;font-size:13px;color:var(--soft)}
.looks{display:grid;grid-template-columns:repeat(auto-fit,minmax(108px,1fr));gap:12px 14px}
.looks.words{grid-template-columns:repeat(auto-fill,88px);gap:10px 8px}
.looks figure{margin:0;min-width:0;font-size:12.5px;line-height:1.4}
.looks img{width:100%;max-width:200px;height:auto;display:block;border-radius:6px}
.looks figcaption{margin-top:5px;font-weight:600;overflow-wrap:anywhere;max-width:200px}
.looks figcaption span{display:block;font-weight:400;color:var(--soft)}
img.pixels{image-rendering:pixelated}
details{margin-top:40px}summary{cursor:pointer;font-weight:600}
pre{overflow:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;margin:12px 0 0}
"""
