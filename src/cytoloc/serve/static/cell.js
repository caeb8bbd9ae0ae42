// A schematic cell. Each location is drawn darker the more probable it is; predicted locations have an outline.

const SVG = "http://www.w3.org/2000/svg";
const dots = (radius, ...points) => points.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="${radius}"/>`).join("");
const lines = (width, ...paths) => paths.map((path) => `<path d="${path}" fill="none" stroke="currentColor" stroke-width="${width}" stroke-linecap="round"/>`).join("");

const CELL = "M42 118C40 64 92 26 158 24s128 34 132 88-38 104-118 108S44 176 42 118z";
const NUCLEUS = "M106 122a54 44 0 1 0 108 0 54 44 0 1 0-108 0z";

/** The shapes of each location, from back to front, by its name in lower case. */
const SHAPES = [
  [["cytosol", "cytoplasm"], `<path d="${CELL}${NUCLEUS}" fill-rule="evenodd"/>`],
  [["nucleoplasm", "nucleus"], `<path d="${NUCLEUS}"/>`],
  [["plasma membrane"], lines(6, CELL)],
  [["nuclear membrane"], lines(5, NUCLEUS)],
  [["endoplasmic reticulum"], lines(3, "M96 92C70 104 74 142 96 156", "M86 86C56 104 60 150 86 168", "M224 92c26 12 22 50 0 64")],
  [["golgi apparatus"], lines(4, "M226 66c12 4 20 12 24 22", "M220 74c11 3 18 10 22 20", "M234 60c12 4 20 13 25 24")],
  [["mitochondria"], `<g>${[[78, 74, -30], [252, 146, 40], [112, 190, 10], [206, 192, -20], [150, 48, 5]].map(([x, y, turn]) => `<ellipse cx="${x}" cy="${y}" rx="15" ry="6" transform="rotate(${turn} ${x} ${y})"/>`).join("")}</g>`],
  [["microtubules"], lines(1.8, "M222 108C250 80 262 70 276 84", "M222 112c26 2 44 6 62 2", "M218 118c24 22 40 40 42 58", "M212 106C190 60 160 44 120 40", "M212 108C150 66 90 70 62 84")],
  [["microtubule ends"], dots(3, [276, 84], [284, 114], [260, 176], [120, 40], [62, 84])],
  [["intermediate filaments"], lines(1.8, "M60 136C90 196 150 208 196 208", "M66 150c30 34 70 44 110 46", "M58 120c4 30 20 50 44 64")],
  [["actin filaments", "actin filaments and focal adhesion sites"], lines(2, "M62 172L128 210", "M56 156l88 56", "M236 44l40 40", "M222 36l62 60")],
  [["focal adhesion sites"], lines(6, "M56 164l8 10", "M84 190l10 8", "M270 62l8 8", "M286 96l3 10")],
  [["nucleoli"], `<ellipse cx="140" cy="112" rx="14" ry="10"/><ellipse cx="182" cy="136" rx="12" ry="9"/>`],
  [["nucleoli rim"], `<ellipse cx="140" cy="112" rx="14" ry="10" fill="none" stroke="currentColor" stroke-width="3"/><ellipse cx="182" cy="136" rx="12" ry="9" fill="none" stroke="currentColor" stroke-width="3"/>`],
  [["nucleoli fibrillar center"], dots(3, [136, 112], [145, 110], [180, 136], [187, 134])],
  [["nuclear speckles"], dots(5, [164, 96], [196, 112], [122, 130], [154, 148], [172, 116])],
  [["nuclear bodies"], dots(4, [128, 98], [190, 98], [150, 132], [204, 128])],
  [["mitotic chromosome", "kinetochore"], lines(4, "M158 104l10 16", "M168 104l-10 16")],
  [["peroxisomes"], dots(3, [90, 58], [104, 66], [66, 108], [120, 178], [262, 120])],
  [["endosomes"], dots(4.5, [236, 178], [222, 182], [58, 140])],
  [["lysosomes"], dots(5.5, [250, 172], [76, 128], [182, 44])],
  [["vesicles", "vesicles and punctate cytosolic patterns"], dots(4, [200, 50], [100, 48], [272, 132], [142, 196], [80, 154])],
  [["lipid droplets"], dots(6, [130, 62], [238, 116], [96, 176])],
  [["cytoplasmic bodies"], dots(4, [178, 64], [246, 130], [132, 184], [70, 92])],
  [["aggresome"], `<path d="M100 74c8-8 22-6 24 4s-8 16-16 14-14-12-8-18z"/>`],
  [["microtubule organizing center", "centrosome", "centrosome and centriolar satellite", "microtubule organizing centre"], dots(5, [218, 110])],
  [["centriolar satellite"], dots(2.2, [210, 100], [228, 104], [224, 120], [210, 118])],
  [["cell junctions", "plasma membrane and cell junctions"], lines(6, "M42 92c-2 16-2 34 0 50")],
  [["rods & rings", "rods and rings"], `${lines(4, "M146 206l22-4")}<circle cx="186" cy="202" r="6" fill="none" stroke="currentColor" stroke-width="3"/>`],
  [["mitotic spindle"], `<g>${lines(2.4, "M330 60q24-30 48 0", "M330 60q24 30 48 0", "M330 60h48")}</g>`],
  [["cytokinetic bridge", "midbody", "midbody ring", "cleavage furrow"], `<g>${lines(5, "M344 178h22")}</g>`],
];

const FRAME = `
  <path d="${CELL}" fill="none" stroke="currentColor" stroke-opacity=".45"/>
  <path d="${NUCLEUS}" fill="none" stroke="currentColor" stroke-opacity=".45"/>
  <path d="M28 84C12 100 10 132 24 150" fill="none" stroke="currentColor" stroke-opacity=".45"/>
  <circle cx="354" cy="60" r="38" fill="none" stroke="currentColor" stroke-opacity=".45"/>
  <path d="M340 178a20 26 0 1 1-2-14M370 178a20 26 0 1 0 2-14" fill="none" stroke="currentColor" stroke-opacity=".45"/>
  <text x="354" y="116" text-anchor="middle" font-size="11" fill="currentColor">dividing cells</text>`;

/** Draw the cell, and return the names of the locations that it has no place for. */
export function drawCell(parent, locations) {
  const byName = new Map(locations.map((location) => [location.name.toLowerCase(), location]));
  const drawn = new Set();
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 414 240");
  svg.setAttribute("role", "img");
  const found = locations.filter((each) => each.predicted ?? each.probability >= 0.5).map((each) => each.name);
  svg.setAttribute("aria-label", `Schematic cell. Highlighted: ${found.join(", ") || "nothing"}.`);
  svg.innerHTML = FRAME;
  for (const [names, shape] of SHAPES) {
    const matching = names.map((name) => byName.get(name)).filter(Boolean);
    if (!matching.length) continue;
    matching.forEach((location) => drawn.add(location.key));
    const strongest = matching.reduce((a, b) => (a.probability >= b.probability ? a : b));
    const isFound = matching.some((location) => location.predicted ?? location.probability >= 0.5);
    const group = document.createElementNS(SVG, "g");
    group.innerHTML = `<title></title>${shape}`;
    group.querySelector("title").textContent = matching.map((each) => `${each.name}: ${each.probability.toFixed(2)}`).join(", ");
    group.setAttribute("fill", "currentColor");
    group.setAttribute("class", isFound ? "found" : "faint");
    group.setAttribute("color", isFound ? "var(--accent)" : "var(--quiet)");
    group.setAttribute("opacity", isFound ? String(0.55 + 0.45 * strongest.probability) : String(0.06 + 0.3 * strongest.probability));
    svg.append(group);
  }
  parent.replaceChildren(svg);
  return locations.filter((location) => !drawn.has(location.key)).map((location) => location.name);
}
