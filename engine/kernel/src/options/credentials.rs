//! A user or a password in a URL that ends the URL's first part too early: `mqtt://me:a/b@host` has the host `me`.

/// What ends the part of a URL that holds user, password and host, with its percent-encoding.
const ENDS: [(char, &str); 3] = [('/', "%2F"), ('?', "%3F"), ('#', "%23")];

/// What to do about a URL that will not do, if its user or password has one of those characters. Shows neither.
///
/// ```
/// # use thalweg_kernel::options::unencoded;
/// let hint = unencoded("mqtt://me:a/b@host").unwrap();
/// assert!(hint.contains("write '/' as %2F"));
/// assert_eq!(unencoded("mqtt://me:a%2Fb@host"), None);
/// assert_eq!(unencoded("mqtt://host/path"), None);
/// ```
pub fn unencoded(url: &str) -> Option<String> {
    let behind = url.find("://").map_or(url, |at| &url[at + 3..]);
    let credentials = &behind[..behind.rfind('@')?];
    let found = ENDS.iter().find(|(end, _)| credentials.contains(*end));
    let (end, code) = found?;
    Some(format!(
        "user and password percent-encoded: write '{end}' as {code} in them, '@' as %40 and '%' as %25; or give them \
         apart from the URL"
    ))
}
