//! chasqui-stores
