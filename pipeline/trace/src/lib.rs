//! chasqui-trace
