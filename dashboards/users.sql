-- Makes the two users that only read, in a ClickHouse of your own: an administrator runs this once, with passwords
-- instead of the question marks. (On a cluster, add ON CLUSTER to each statement.) Chasqui does not do it: its own user
-- needs rights on its database and on nothing else. `compose.yaml` makes the same users from a file, as `analyst` and
-- `grafana`. Whatever one user's queries ask for together, the writer keeps memory and threads of its own.

-- Analysts: may change settings, as their tools do, within these bounds, but only read.
CREATE SETTINGS PROFILE IF NOT EXISTS chasqui_analyst SETTINGS
    readonly = 2,
    max_execution_time = 300 MIN 1 MAX 3600,
    max_memory_usage = 1000000000 MIN 1 MAX 1000000000,
    max_memory_usage_for_user = 1000000000 CONST,
    max_concurrent_queries_for_user = 5 CONST;
CREATE USER IF NOT EXISTS chasqui_analyst IDENTIFIED WITH sha256_password BY '?' SETTINGS PROFILE 'chasqui_analyst';
GRANT SELECT ON chasqui.* TO chasqui_analyst;

-- Grafana: may change nothing but its time limit, which its plugin sets with every query.
CREATE SETTINGS PROFILE IF NOT EXISTS chasqui_grafana SETTINGS
    readonly = 1,
    max_execution_time = 60 MIN 1 MAX 300 CHANGEABLE_IN_READONLY,
    max_memory_usage = 1000000000,
    max_memory_usage_for_user = 1000000000,
    max_concurrent_queries_for_user = 20;
CREATE USER IF NOT EXISTS chasqui_grafana IDENTIFIED WITH sha256_password BY '?' SETTINGS PROFILE 'chasqui_grafana';
GRANT SELECT ON chasqui.* TO chasqui_grafana;

-- A bound for each: an hour of one analyst's queries may take an hour of execution, and Grafana's two.
CREATE QUOTA IF NOT EXISTS chasqui_analyst FOR INTERVAL 1 hour MAX execution_time = 3600 TO chasqui_analyst;
CREATE QUOTA IF NOT EXISTS chasqui_grafana FOR INTERVAL 1 hour MAX execution_time = 7200 TO chasqui_grafana;
