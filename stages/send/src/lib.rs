//! chasqui-send
