//! Promises shown on real daemons; see tests/.
