//! Lists that are searched, sorted and shown page by page.

use serde::Serialize;
use utoipa::ToSchema;

/// Rows of a page.
const PAGE: usize = 100;

/// The longest text that is searched for, in characters.
const MAX_SEARCH: usize = 100;

/// What of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    /// Text in the name, in lower case; all where it is empty.
    pub(crate) search: String,
    /// This account alone, as it is written; all if absent.
    pub(crate) account: Option<String>,
    pub(crate) sort: Sort,
    /// The largest first.
    pub(crate) descending: bool,
    /// From 1.
    pub(crate) page: usize,
}

/// By what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    Hashrate,
    Accepted,
    Rejected,
    LastShare,
    Uptime,
}

impl Sort {
    pub(super) const ALL: [Self; 6] = [
        Self::Name,
        Self::Hashrate,
        Self::Accepted,
        Self::Rejected,
        Self::LastShare,
        Self::Uptime,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Hashrate => "hashrate",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::LastShare => "last-share",
            Self::Uptime => "uptime",
        }
    }
}

impl Default for List {
    fn default() -> Self {
        Self {
            search: String::new(),
            account: None,
            sort: Sort::Hashrate,
            descending: true,
            page: 1,
        }
    }
}

impl List {
    /// From what stands in a URL: `sort` is a name, with a minus before it for the largest first.
    ///
    /// # Errors
    /// What is wrong, for whoever asked.
    pub(crate) fn parse(
        search: Option<&str>,
        sort: Option<&str>,
        page: Option<&str>,
    ) -> Result<Self, String> {
        let mut list = Self::default();
        let search = search.unwrap_or_default().trim();
        list.search = search.to_lowercase().chars().take(MAX_SEARCH).collect();
        if let Some(sort) = sort.filter(|sort| !sort.is_empty()) {
            let name = sort.strip_prefix('-').unwrap_or(sort);
            let known = Sort::ALL.into_iter().find(|known| known.name() == name);
            list.sort = known.ok_or_else(|| {
                let names = Sort::ALL.map(Sort::name).join(", ");
                format!(
                    "sort: one of {names} is possible, with a minus before it for the largest first"
                )
            })?;
            list.descending = sort.starts_with('-');
        }
        if let Some(page) = page {
            let page = page.parse().ok().filter(|page| *page > 0);
            list.page = page.ok_or("page: a number from 1 is possible")?;
        }
        Ok(list)
    }

    /// Not all are asked for.
    pub(crate) fn is_part(&self) -> bool {
        self.account.is_some() || !self.search.is_empty()
    }

    pub(crate) fn finds(&self, texts: &[&str]) -> bool {
        self.search.is_empty() || texts.iter().any(|text| contains(text, &self.search))
    }

    /// The rows of the page, of those in rising order. What is after the last page is the last page.
    pub(super) fn page<'a, T: 'a, U>(
        &self,
        order: impl ExactSizeIterator<Item = &'a T> + DoubleEndedIterator,
        show: impl FnMut(&'a T) -> Option<U>,
    ) -> Page<U> {
        let total = order.len();
        let pages = total.div_ceil(PAGE).max(1);
        let page = self.page.min(pages);
        let skip = (page - 1) * PAGE;
        let rows = if self.descending {
            order.rev().skip(skip).take(PAGE).filter_map(show).collect()
        } else {
            order.skip(skip).take(PAGE).filter_map(show).collect()
        };
        Page {
            rows,
            total,
            page,
            pages,
        }
    }
}

/// Whether a text has another one in it, which is in lower case. Most texts are ASCII, of which no copy is made.
pub(super) fn contains(text: &str, search: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(search);
    }
    let (text, search) = (text.as_bytes(), search.as_bytes());
    let mut places = text.windows(search.len().max(1));
    search.is_empty() || places.any(|place| place.eq_ignore_ascii_case(search))
}

/// Some rows of many.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// At most 100.
    pub(crate) rows: Vec<T>,
    /// Rows on all pages.
    pub(crate) total: usize,
    /// From 1.
    pub(crate) page: usize,
    /// Pages in all.
    pub(crate) pages: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_hundred_rows_and_beyond_the_last_is_the_last() {
        let list = List::parse(None, Some("name"), Some("7")).unwrap();
        let rows: Vec<usize> = (0..250).collect();
        let page = list.page(rows.iter(), |row| Some(*row));
        assert_eq!((page.page, page.pages, page.total), (3, 3, 250));
        assert_eq!(page.rows, (200..250).collect::<Vec<_>>());
        let falling = List::default().page(rows.iter(), |row| Some(*row));
        assert_eq!(falling.rows, (150..250).rev().collect::<Vec<_>>());
        let empty = List::default().page([].iter(), |row: &usize| Some(*row));
        assert_eq!((empty.page, empty.pages, empty.total), (1, 1, 0));
    }

    #[test]
    fn what_cannot_be_asked_is_answered_with_what_can() {
        assert!(
            List::parse(None, Some("-size"), None)
                .unwrap_err()
                .contains("hashrate")
        );
        for page in ["0", "-1", "x", ""] {
            assert!(List::parse(None, None, Some(page)).is_err());
        }
        let list = List::parse(Some("  RiG "), Some("-last-share"), None).unwrap();
        assert!(list.descending && list.finds(&["a rig"]) && !list.finds(&["ri g"]));
        assert!(list.finds(&["ri", "é RIG"]) && !list.finds(&["é"]));
        let list = List::parse(Some("É"), None, None).unwrap();
        assert!(list.finds(&["café"]) && !list.finds(&["cafe"]));
    }
}
