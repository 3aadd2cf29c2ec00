//! chasqui-runtime
