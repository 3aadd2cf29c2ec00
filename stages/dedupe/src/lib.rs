//! chasqui-dedupe
