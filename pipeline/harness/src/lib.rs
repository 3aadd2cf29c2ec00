//! chasqui-harness
