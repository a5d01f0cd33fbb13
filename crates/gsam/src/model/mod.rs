//! Networks and the methods to fine-tune them.
