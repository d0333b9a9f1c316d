// Draws the panels of the dashboards at their places in the grid, with what a Prometheus answered. Numbers, lines and
// tables are Grafana's own components, the joining of a table's columns its own transformations. @grafana/ui has no state
// timeline and no heat map: these are painted here on Grafana's chart (its axes, time scale and colours of values). A look at
// layout, units, legends and colours; no proof that Grafana loads the files.
import React from 'react';
import { createRoot } from 'react-dom/client';
import {
  createTheme, dateTime, FieldType, getDisplayProcessor, getFieldDisplayValues, getValueFormat, standardTransformers,
  standardTransformersRegistry, ThemeContext, toDataFrame, transformDataFrame,
} from '@grafana/data';
import { AxisPlacement, BigValue, GlobalStyles, PanelChrome, ScaleDistribution, TimeSeries, UPlotChart, UPlotConfigBuilder } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { interpolateOranges } from 'd3-scale-chromatic';
import asked from './asked.json';

const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1600, CELL = 38, GAP = 8;
const range = { from: dateTime(asked.start * 1000), to: dateTime(asked.end * 1000), raw: { from: 'now-1h', to: 'now' } };
const NAME_WIDTH = 6.6; // of a letter
const { mergeTransformer, organizeFieldsTransformer } = standardTransformers;
standardTransformersRegistry.setInit(() => [mergeTransformer, organizeFieldsTransformer].map((each) => ({ ...each, transformation: async () => each })));

const legendOf = (query, labels) => query.name.replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label] ?? '');
const plain = (text) => text;

// The configuration of a field: the panel's defaults, and the overrides that are for its name.
function configured(field, panel, number) {
  const { defaults, overrides } = panel.fieldConfig;
  const config = { ...defaults, custom: { ...defaults.custom } };
  for (const { matcher, properties } of overrides.filter(({ matcher }) => matcher.options === field.name))
    for (const { id, value } of properties)
      if (id.startsWith('custom.')) config.custom[id.slice(7)] = value;
      else config[id] = value;
  field.config = config;
  field.state = { seriesIndex: number, displayName: field.name };
  field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  return field;
}

// All series of a panel over common times.
function joined(panel, queries) {
  const times = [...new Set(queries.flatMap((query) => query.series.flatMap(([, points]) => points.map(([at]) => at))))].sort((a, b) => a - b);
  const fields = queries.flatMap((query) =>
    query.series.map(([labels, points]) => {
      const values = new Map(points);
      return { name: legendOf(query, labels), type: FieldType.number, values: times.map((at) => values.get(at) ?? null) };
    })
  );
  const frame = toDataFrame({ fields: [{ name: 'time', type: FieldType.time, values: times.map((at) => at * 1000) }, ...fields] });
  frame.fields.forEach((field, number) => configured(field, number ? panel : { fieldConfig: { defaults: {}, overrides: [] } }, number - 1));
  return frame;
}

function Lines({ panel, queries, width, height }) {
  const frame = joined(panel, queries);
  if (frame.fields.length < 2) return <p>No data</p>;
  const made = { drawStyle: 'line', axisPlacement: 'auto', showPoints: 'never' };
  frame.fields.forEach((field) => (field.config.custom = { ...made, ...field.config.custom }));
  return <TimeSeries frames={[frame]} timeRange={range} timeZone="utc" width={width} height={height} legend={panel.options.legend} options={{}} theme={theme} />;
}

function Number({ panel, queries, width, height }) {
  const data = queries.flatMap((query) =>
    query.series.map(([labels, points]) => {
      const frame = toDataFrame({ fields: [{ name: legendOf(query, labels), type: FieldType.number, values: points.map(([, value]) => value) }] });
      configured(frame.fields[0], panel, 0);
      return frame;
    })
  );
  const { reduceOptions, colorMode, textMode } = panel.options;
  const shown = getFieldDisplayValues({ data, reduceOptions, fieldConfig: panel.fieldConfig, replaceVariables: plain, theme, timeZone: 'utc' });
  return shown.map(({ display }, number) => (
    <BigValue key={number} theme={theme} colorMode={colorMode} graphMode="none" textMode={data.length ? textMode : 'value'} width={width} height={height / shown.length} value={display} />
  ));
}

function Rows({ panel, queries, width, height }) {
  const frames = queries.map((query, number) => {
    const labels = Object.keys(query.series[0]?.[0] ?? {});
    const column = (name, type, values) => ({ name, type, values, config: {} });
    return toDataFrame({
      refId: 'ABCDEFGHIJKL'[number],
      fields: [
        column('Time', FieldType.time, query.series.map(() => asked.end * 1000)),
        ...labels.map((label) => column(label, FieldType.string, query.series.map(([each]) => each[label]))),
        column(`Value #${'ABCDEFGHIJKL'[number]}`, FieldType.number, query.series.map(([, points]) => points.at(-1)[1])),
      ],
    });
  });
  const [frame, show] = React.useState(null);
  React.useEffect(() => {
    const listening = transformDataFrame(panel.transformations, frames, { interpolate: plain }).subscribe(([made]) => show(made));
    return () => listening.unsubscribe();
  }, []);
  if (!frame) return <p>No data</p>;
  const fields = frame.fields.map((field, number) => configured({ ...field, name: field.config?.displayName ?? field.name, getLinks: () => [] }, panel, number));
  return <TableNG data={{ ...frame, fields }} width={width} height={height} sortBy={panel.options.sortBy} fieldConfig={panel.fieldConfig} noValue="" />;
}

// Grafana's chart with a time axis, and rows from top to bottom with these names, painted by `paint(u, context)`.
function Painted({ names, width, height, axis, paint }) {
  const config = new UPlotConfigBuilder('utc');
  config.addScale({ scaleKey: 'x', isTime: true, orientation: 0, direction: 1, range: () => [asked.start * 1000, asked.end * 1000] });
  config.addScale({ scaleKey: 'y', orientation: 1, direction: 1, distribution: ScaleDistribution.Linear, range: () => [0, names.length] });
  config.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone: 'utc', theme, grid: { show: true } });
  config.addAxis({ scaleKey: 'y', placement: AxisPlacement.Left, theme, grid: { show: false }, ticks: { show: false }, ...axis });
  config.addSeries({ scaleKey: 'y', pathBuilder: () => null, pointsBuilder: () => false, theme, lineWidth: 0 });
  config.addHook('drawClear', (u) => {
    u.ctx.save();
    paint(u, (value) => u.valToPos(value, 'x', true), (value) => u.valToPos(value, 'y', true));
    u.ctx.restore();
  });
  const data = [[asked.start * 1000, asked.end * 1000], [0, names.length]];
  return <UPlotChart data={data} width={width} height={height} config={config} timeRange={range} />;
}

function Bars({ panel, queries, width, height }) {
  const frame = joined(panel, queries);
  const [times, ...rows] = frame.fields;
  if (!rows.length) return <p>No data</p>;
  rows.reverse(); // the first one on top
  const names = rows.map((field) => field.name);
  const step = times.values[1] - times.values[0] || 1000;
  const paint = (u, x, y) => {
    u.ctx.globalAlpha = (panel.fieldConfig.defaults.custom?.fillOpacity ?? 80) / 100;
    rows.forEach((field, row) => {
      const top = y(row + 0.9), tall = y(row + 0.1) - top;
      for (let begin = 0, end; begin < field.values.length; begin = end) {
        const value = field.values[begin];
        for (end = begin + 1; end < field.values.length && field.values[end] === value; end++);
        const { color } = field.display(value);
        if (value === null || color === undefined || color === 'transparent') continue;
        const left = x(times.values[begin]);
        u.ctx.fillStyle = color;
        u.ctx.fillRect(left, top, x(times.values[end - 1] + step) - left, tall);
      }
    });
  };
  const longest = Math.max(...names.map((name) => name.length));
  const axis = { size: Math.min(longest * NAME_WIDTH + 20, width * 0.7), splits: names.map((_, row) => row + 0.5), values: () => names };
  return <Painted names={names} width={width} height={height} axis={axis} paint={paint} />;
}

function Heat({ panel, queries, width, height }) {
  const found = queries.flatMap((query) => query.series).map(([labels, points]) => [labels.le === '+Inf' ? Infinity : parseFloat(labels.le), new Map(points)]);
  if (!found.length) return <p>No data</p>;
  found.sort(([a], [b]) => a - b);
  const times = [...new Set(found.flatMap(([, points]) => [...points.keys()]))].sort((a, b) => a - b);
  // What Prometheus counts is at most so long; a row is what is beyond the row below.
  const cells = found.map(([, points], row) => times.map((at) => Math.max(0, (points.get(at) ?? 0) - (row ? found[row - 1][1].get(at) ?? 0 : 0))));
  const most = Math.max(...cells.flat(), 1e-9), { exponent } = panel.options.color;
  const step = (times[1] - times[0] || 1) * 1000;
  const paint = (u, x, y) =>
    cells.forEach((row, number) =>
      row.forEach((count, column) => {
        if (count <= 1e-9) return;
        u.ctx.fillStyle = interpolateOranges(Math.pow(count / most, exponent));
        const left = x(times[column] * 1000), top = y(number + 1);
        u.ctx.fillRect(left, top, x(times[column] * 1000 + step) - left + 0.5, y(number) - top - 1);
      })
    );
  const format = getValueFormat(panel.options.yAxis.unit);
  const bound = (value) => { const { text, suffix } = format(value); return `${text}${suffix ?? ''}`; };
  const names = found.map(([le]) => (le === Infinity ? '+Inf' : bound(le)));
  const every = Math.ceil((names.length * 16) / height);
  const shown = names.map((_, row) => row).filter((row) => row % every === 0);
  const axis = { size: 70, splits: shown.map((row) => row + 0.5), values: () => shown.map((row) => names[row]) };
  return <Painted names={names} width={width} height={height} axis={axis} paint={paint} />;
}

const KINDS = { timeseries: Lines, stat: Number, table: Rows, 'state-timeline': Bars, heatmap: Heat };

function Panel({ board, panel }) {
  const { x = 0, y = 0, w, h } = panel.gridPos;
  const column = WIDTH / 24;
  const width = w * column - GAP, height = h * CELL - GAP;
  const style = { position: 'absolute', left: x * column, top: y * CELL + 40, width, height };
  const title = panel.title.replace(/\$(\w+)/g, (_, name) => asked.choices[board.title][name] ?? _);
  if (panel.type === 'row') return <h4 style={{ ...style, color: '#ccc' }}>{title}</h4>;
  const Kind = KINDS[panel.type];
  const queries = asked.answers.filter((answer) => answer.board === board.title && answer.panel === panel.title);
  return (
    <div style={style}>
      <PanelChrome title={title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => <Kind panel={panel} queries={queries} width={innerWidth} height={innerHeight} />}
      </PanelChrome>
    </div>
  );
}

window.onerror = (message) => document.body.append(message);
const board = asked.boards.find(({ uid }) => uid === new URLSearchParams(location.search).get('uid'));
document.body.style.cssText = `background: #111217; color: #ccc; font-family: sans-serif; width: ${WIDTH}px`;
createRoot(document.getElementById('page')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <h3>{board.title}</h3>
    {board.panels.map((panel) => <Panel key={panel.id} board={board} panel={panel} />)}
  </ThemeContext.Provider>
);
