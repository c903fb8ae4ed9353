//! What the stub processes of both platforms have in common: how they come to be, how they are
//! kept ready, what is queued for their mappings.

pub(crate) mod affinity;
pub(crate) mod birth;
pub(crate) mod kick;
pub(crate) mod message;
pub(crate) mod nursery;
pub(crate) mod queue;
pub(crate) mod sys;
pub(crate) mod vdso;
