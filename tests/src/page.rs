//! Just enough HTML to press a button: what a form on a page would send.

/// The value of a form's field, as a browser would send it; `None` if there is no such field.
pub fn form_field(page: &str, name: &str) -> Option<String> {
    let inputs = page.split("<input").skip(1).filter_map(|rest| rest.split('>').next());
    let input = inputs.into_iter().find(|input| attribute(input, "name").as_deref() == Some(name))?;
    attribute(input, "value")
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    let quote = rest.chars().next().filter(|quote| "\"'".contains(*quote))?;
    let value = rest[1..].split(quote).next()?;
    let plain = value
        .replace("&#x2F;", "/")
        .replace("&#x2f;", "/")
        .replace("&#x3D;", "=")
        .replace("&quot;", "\"")
        .replace("&#39;", "'");
    Some(plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::form_field;

    #[test]
    fn a_field_is_found_by_name_and_unescaped() {
        let page = "<form method=\"post\"><input type=\"text\" name=\"a\" value=\"1\">\
                    <input value='x&amp;&#x3D;y' name='token' type=hidden><button>Go</button></form>";
        assert_eq!(form_field(page, "token").as_deref(), Some("x&=y"));
        assert_eq!(form_field(page, "a").as_deref(), Some("1"));
        assert_eq!(form_field(page, "b"), None);
        assert_eq!(form_field("<p>no form</p>", "token"), None);
    }
}
