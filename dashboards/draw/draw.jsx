// Draws the panels of the dashboards with Grafana's own components (but for the tables), at their places in the grid. A look at layout, units,
// legends and colours; no proof that Grafana loads the files. What @grafana/ui has no component for (state timeline, heat
// map) is a frame with its title.
import React from 'react';
import { createRoot } from 'react-dom/client';
import { createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame } from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import asked from './asked.json';

const theme = createTheme({ colors: { mode: 'dark' } });
const WIDTH = 1600, CELL = 38, GAP = 8;
const range = { from: dateTime(asked.start * 1000), to: dateTime(asked.end * 1000), raw: { from: 'now-1h', to: 'now' } };
const legend = (query, labels) => query.name.replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label] ?? '');
const PALETTE = ['#73BF69', '#F2CC0C', '#5794F2', '#FF780A', '#F2495C', '#8AB8FF', '#B877D9', '#37872D'];

function display(field) {
  field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
  return field;
}

function frameOf(panel, queries) {
  const times = [...new Set(queries.flatMap((query) => query.series.flatMap(([, points]) => points.map(([at]) => at))))].sort((a, b) => a - b);
  const fields = queries.flatMap((query) =>
    query.series.map(([labels, points]) => {
      const values = new Map(points);
      return { name: legend(query, labels), type: FieldType.number, values: times.map((at) => values.get(at) ?? null) };
    })
  );
  const defaults = panel.fieldConfig.defaults;
  const custom = { drawStyle: 'line', lineWidth: 1, fillOpacity: 5, showPoints: 'never', axisPlacement: 'auto', ...defaults.custom };
  const frame = toDataFrame({ fields: [{ name: 'time', type: FieldType.time, values: times.map((at) => at * 1000) }, ...fields] });
  frame.fields.slice(1).forEach((field, number) => {
    field.config = { ...defaults, custom, color: { mode: 'fixed', fixedColor: PALETTE[number % PALETTE.length] } };
    field.state = { seriesIndex: number, displayName: field.name };
    display(field);
  });
  display(frame.fields[0]);
  return frame;
}

function Lines({ panel, queries, width, height }) {
  const frame = frameOf(panel, queries);
  if (frame.fields.length < 2) return <p>No data</p>;
  const shown = { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] };
  return <TimeSeries frames={[frame]} timeRange={range} timeZone="utc" width={width} height={height} legend={shown} options={{}} theme={theme} />;
}

function Number({ panel, queries, width, height }) {
  const [query] = queries;
  const defaults = panel.fieldConfig.defaults;
  if (panel.options.textMode === 'name' || !query.series.length) {
    const text = query.series.map(([labels]) => legend(query, labels)).join(', ') || defaults.noValue;
    return <BigValue theme={theme} colorMode="value" graphMode="none" width={width} height={height} value={{ text, numeric: 0, color: query.series.length ? '#F2495C' : '#73BF69' }} />;
  }
  const field = display({ name: '', type: FieldType.number, config: defaults, values: [] });
  return <BigValue theme={theme} colorMode="value" graphMode="none" width={width} height={height} value={field.display(query.series[0][1].at(-1)[1])} />;
}

// Grafana's own table does not survive esbuild.
function Rows({ panel, queries, width }) {
  const columns = Object.values(panel.transformations[1].options.renameByName);
  const units = Object.fromEntries(panel.fieldConfig.overrides.flatMap((one) => one.properties.filter(({ id }) => id === 'unit').map(({ value }) => [one.matcher.options, value])));
  const keys = [...new Map(queries.flatMap((query) => query.series.map(([labels]) => [JSON.stringify(labels), labels])))];
  const names = Object.keys(keys[0]?.[1] ?? {});
  const mappings = panel.fieldConfig.overrides.flatMap((one) => one.properties).find(({ id }) => id === 'mappings')?.value;
  const shown = (query, number, key) => {
    const value = query.series.find(([labels]) => JSON.stringify(labels) === key)?.[1].at(-1)[1];
    if (value === undefined) return {};
    const config = { unit: units[columns[number]], mappings: number ? undefined : mappings };
    return display({ name: '', type: FieldType.number, config, values: [] }).display(value);
  };
  return (
    <table style={{ width, borderSpacing: 4 }}>
      <thead><tr>{[...names, ...columns].map((name) => <th key={name} style={{ textAlign: 'left' }}>{name}</th>)}</tr></thead>
      <tbody>
        {keys.map(([key, labels]) => (
          <tr key={key}>
            {names.map((name) => <td key={name}>{labels[name]}</td>)}
            {queries.map((query, number) => {
              const { text, suffix, color } = shown(query, number, key);
              return <td key={query.expr} style={number ? {} : { background: color }}>{text}{suffix}</td>;
            })}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const KINDS = { timeseries: Lines, stat: Number, table: Rows };

function Panel({ board, panel }) {
  const { x = 0, y = 0, w, h } = panel.gridPos;
  const column = WIDTH / 24;
  const width = w * column - GAP, height = h * CELL - GAP;
  const style = { position: 'absolute', left: x * column, top: y * CELL + 40, width, height };
  if (panel.type === 'row') return <h4 style={{ ...style, color: '#ccc' }}>{panel.title}</h4>;
  const Kind = KINDS[panel.type];
  const queries = asked.answers.filter((answer) => answer.board === board.title && answer.panel === panel.title);
  return (
    <div style={style}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => (Kind ? <Kind panel={panel} queries={queries} width={innerWidth} height={innerHeight} /> : <p>{panel.type}, {queries.flatMap(({ series }) => series).length} series</p>)}
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
