// What dashboard.schema.json is made from; its first lines say how.
import type * as grafana from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as barchart from '@grafana/schema/dist/types/raw/composable/barchart/panelcfg/x/types.gen';
import type * as stat from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as table from '@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type * as timeseries from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

// Grafana fills in what is left out.
type Some<T> = T extends Array<infer E> ? Array<Some<E>> : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;

export type dashboard_document = grafana.Dashboard;
export type barchart_options = Some<barchart.Options>;
export type barchart_custom = Some<barchart.FieldConfig>;
export type stat_options = Some<stat.Options>;
export type table_options = Some<table.Options>;
export type table_custom = Some<table.FieldConfig>;
export type timeseries_options = Some<timeseries.Options>;
export type timeseries_custom = Some<timeseries.FieldConfig>;
