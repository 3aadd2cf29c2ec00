//! chasqui-render
