//! One value for each class of mail.

use crate::spool::Class;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PerClass<T> {
    urgent: T,
    normal: T,
    bulk: T,
}

impl PerClass<usize> {
    pub(crate) const fn new() -> Self {
        Self { urgent: 0, normal: 0, bulk: 0 }
    }
}

impl<T> PerClass<T> {
    pub(crate) const fn of(&self, class: Class) -> &T {
        match class {
            Class::Urgent => &self.urgent,
            Class::Normal => &self.normal,
            Class::Bulk => &self.bulk,
        }
    }

    pub(crate) const fn of_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Urgent => &mut self.urgent,
            Class::Normal => &mut self.normal,
            Class::Bulk => &mut self.bulk,
        }
    }
}
