//! chasqui-prioritize
