//! The vendors, one file each, written from their documentation and from nothing of Chasqui's.

pub(crate) mod apns;
pub(crate) mod fcm;
pub(crate) mod mailgun;
pub(crate) mod oauth;
pub(crate) mod sendgrid;
pub(crate) mod slack;
mod sms;
pub(crate) mod twilio;
pub(crate) mod vonage;
pub(crate) mod webpush;
