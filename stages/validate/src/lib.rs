//! chasqui-validate
