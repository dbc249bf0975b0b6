//! A folder that means harm, or has bad luck.
