//! chasqui-embedded
