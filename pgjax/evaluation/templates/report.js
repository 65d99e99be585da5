"use strict";
(() => {
  const { groups, charts, evaluation } = JSON.parse(document.getElementById("numbers").textContent);
  const config = { displayModeBar: false, responsive: true }; // its bar of buttons has links
  const touch = matchMedia("(pointer: coarse)").matches; // there a drag scrolls the page
  const axis = { gridcolor: "#e6e9ed", zerolinecolor: "#c9ced5", automargin: true };

  const layout = (more) => ({
    margin: { l: 48, r: 12, t: 8, b: 40 },
    font: { family: "system-ui, sans-serif", size: 12, color: "#1b1f24" },
    showlegend: false,
    dragmode: touch ? false : "zoom",
    hovermode: "closest",
    ...more,
  });

  const faint = (colour) => colour + "33"; // opacity 20 %

  // The line of a group, and a band behind it.
  function curveTraces(curve, markers) {
    const { colour, dash } = groups[curve.group];
    const point = curve.x.length === 1;
    const line = {
      x: curve.x, y: curve.mean, meta: curve.group, mode: markers || point ? "lines+markers" : "lines",
      line: { color: colour, dash, width: 2 },
      hovertemplate: `%{x:,.0f} steps: %{y:.5~g}<extra>${curve.group + 1}</extra>`,
    };
    if (!curve.low) return [line];
    if (point) { // an area over a single point would be invisible
      const [mean, low, high] = [curve.mean[0], curve.low[0], curve.high[0]];
      return [{ ...line, error_y: { array: [high - mean], arrayminus: [mean - low], color: colour } }];
    }
    const band = {
      x: [...curve.x, ...curve.x.toReversed()], y: [...curve.high, ...curve.low.toReversed()],
      meta: curve.group, mode: "lines", line: { width: 0 }, fill: "toself",
      fillcolor: faint(colour), hoverinfo: "skip",
    };
    return [band, line];
  }

  function drawCurves(div) {
    const { curves, markers } = charts[div.dataset.chart];
    const traces = curves.flatMap((curve) => curveTraces(curve, markers));
    const title = { text: "environment steps", standoff: 6 };
    Plotly.newPlot(div, traces, layout({ xaxis: { ...axis, title, rangemode: "tozero" }, yaxis: axis }), config);
  }

  // The evaluation of each seed, and that of the group with its interval.
  function evaluationTraces(row) {
    const { colour } = groups[row.group];
    const y = String(row.group + 1);
    const seeds = {
      x: row.seeds, y: row.seeds.map(() => y), meta: row.group, mode: "markers",
      marker: { color: faint(colour), size: 9, line: { color: colour, width: 1 } },
      hovertemplate: "%{x:.5~g}<extra></extra>",
    };
    const whole = { ...seeds, x: [row.mean], y: [y], marker: { color: colour, size: 9, symbol: "diamond" } };
    if (row.low !== undefined) {
      whole.error_x = { array: [row.high - row.mean], arrayminus: [row.mean - row.low], color: colour, thickness: 2 };
    }
    return [seeds, whole];
  }

  function drawEvaluation(div) {
    div.style.height = `${80 + 36 * evaluation.length}px`;
    const yaxis = { ...axis, type: "category", range: [evaluation.length - 0.5, -0.5], title: { text: "group", standoff: 6 } };
    const xaxis = { ...axis, title: { text: "return", standoff: 6 } };
    Plotly.newPlot(div, evaluation.flatMap(evaluationTraces), layout({ xaxis, yaxis }), config);
  }

  const drawn = [...document.querySelectorAll(".chart")];
  drawn.forEach((div) => (div.dataset.chart ? drawCurves(div) : drawEvaluation(div)));

  document.getElementById("groups").addEventListener("change", ({ target }) => {
    const group = Number(target.dataset.group);
    for (const div of drawn) {
      const traces = div.data.flatMap((trace, i) => (trace.meta === group ? [i] : []));
      if (traces.length) Plotly.restyle(div, { visible: target.checked }, traces);
    }
  });

  // On paper, everything is open and charts have the width of the page.
  const folded = [...document.querySelectorAll("details")];
  let opened = [];
  const fit = () => drawn.forEach((div) => Plotly.relayout(div, { width: div.clientWidth, height: div.clientHeight }));
  matchMedia("print").addEventListener("change", ({ matches }) => {
    if (matches) {
      opened = folded.filter((of) => !of.open);
      opened.forEach((of) => { of.open = true; });
      fit();
    } else {
      opened.forEach((of) => { of.open = false; });
      drawn.forEach((div) => Plotly.relayout(div, { autosize: true, width: null, height: null }));
    }
  });
})();
