// What @grafana/schema says of a dashboard, with the words of its enumerations as JSON has them, and with what Grafana
// itself knows beside it: the fields of an annotation of Prometheus, and those that its SDK writes.
import type * as schema from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";

type Words<T> = T extends string ? `${T}` : T extends number | boolean ? T : { [K in keyof T]: Words<T[K]> };
type Annotation = Words<schema.AnnotationQuery> & { expr?: string; titleFormat?: string };
type Variable = Words<schema.VariableModel> & { auto?: boolean; auto_count?: number; auto_min?: string; id?: string };
type Dashboard = Omit<Words<schema.Dashboard>, "annotations" | "templating"> & {
  style?: string;
  annotations: { list: Annotation[] };
  templating: { list: Variable[] };
};
