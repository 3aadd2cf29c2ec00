//! chasqui-filter
