//! chasqui-enrich
