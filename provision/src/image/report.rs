//! What a trial found: a table for people, JSON for machines, JUnit XML for CI.

use std::fmt::Write;

use serde::Serialize;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Case {
    /// Which part of the trial: `sealed`, `bios`, `uefi`.
    pub(super) part: &'static str,
    pub(super) name: String,
    pub(super) passed: bool,
    /// What was found, or what went wrong.
    pub(super) found: String,
    pub(super) seconds: f64,
}

/// Numbers of the image and of its boots.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Bytes of the finished file.
    pub(super) image_bytes: u64,
    /// Size of the disk that a guest sees, in bytes.
    pub(super) disk_bytes: u64,
    pub(super) sha256: String,
    /// What the guests ran on.
    pub(super) accelerator: &'static str,
    /// From the start of QEMU to the first answered get, in seconds; none if it never came.
    pub(super) first_get_seconds: Option<f64>,
    /// The same under UEFI.
    pub(super) first_get_uefi_seconds: Option<f64>,
    /// From the request to reboot to the first answered get.
    pub(super) reboot_seconds: Option<f64>,
    /// Time to multi-user.target after the boot loader, by the guest's own account.
    pub(super) multi_user: Option<String>,
}

/// All of one trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) image: String,
    pub(super) figures: Figures,
    pub(super) cases: Vec<Case>,
    /// Parts that this host cannot run, with the reason.
    pub(super) skipped: Vec<String>,
}

impl Report {
    pub(super) fn failures(&self) -> Vec<&Case> {
        self.cases.iter().filter(|case| !case.passed).collect()
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for case in &self.cases {
            let verdict = if case.passed { "ok" } else { "FAIL" };
            let found = case.found.lines().next().unwrap_or_default();
            line(
                &mut text,
                &format!(
                    "{verdict:<4}  {:<6}  {:<58}  {:>7.1} s  {found}",
                    case.part, case.name, case.seconds
                ),
            );
            for more in case.found.lines().skip(1).filter(|_| !case.passed) {
                line(&mut text, &format!("      {more}"));
            }
        }
        for skipped in &self.skipped {
            line(&mut text, &format!("skip  {skipped}"));
        }
        let figures = &self.figures;
        let seconds = |value: Option<f64>| {
            value.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"))
        };
        line(&mut text, "");
        line(&mut text, &format!("image               {}", self.image));
        line(
            &mut text,
            &format!(
                "size of the file    {:.1} MiB",
                mebibytes(figures.image_bytes)
            ),
        );
        line(
            &mut text,
            &format!(
                "size of the disk    {:.1} MiB",
                mebibytes(figures.disk_bytes)
            ),
        );
        line(
            &mut text,
            &format!("sha256              {}", figures.sha256),
        );
        line(
            &mut text,
            &format!("guests run by       {}", figures.accelerator),
        );
        line(
            &mut text,
            &format!(
                "to the first get    {} by BIOS",
                seconds(figures.first_get_seconds)
            ),
        );
        if figures.first_get_uefi_seconds.is_some() {
            line(
                &mut text,
                &format!(
                    "                    {} by UEFI",
                    seconds(figures.first_get_uefi_seconds)
                ),
            );
        }
        line(
            &mut text,
            &format!(
                "                    {} after a reboot",
                seconds(figures.reboot_seconds)
            ),
        );
        if let Some(multi_user) = &figures.multi_user {
            line(&mut text, &format!("the guest's account {multi_user}"));
        }
        let failed = self.failures().len();
        line(
            &mut text,
            &format!(
                "{} passed, {failed} failed, {} skipped",
                self.cases.len() - failed,
                self.skipped.len()
            ),
        );
        text
    }

    /// For machines.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has only plain values") + "\n"
    }

    /// For CI: one suite, a case for each check.
    pub(super) fn junit(&self) -> String {
        let total: f64 = self.cases.iter().map(|case| case.seconds).sum();
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        line(
            &mut text,
            &format!(
                "<testsuite name=\"image {}\" tests=\"{}\" failures=\"{}\" time=\"{total:.3}\">",
                escaped(&self.image),
                self.cases.len(),
                self.failures().len()
            ),
        );
        for case in &self.cases {
            let (part, name) = (case.part, escaped(&case.name));
            let head = format!(
                "  <testcase classname=\"image.{part}\" name=\"{name}\" time=\"{:.3}\"",
                case.seconds
            );
            if case.passed {
                line(&mut text, &format!("{head}/>"));
            } else {
                let message = escaped(case.found.lines().next().unwrap_or_default());
                line(&mut text, &format!("{head}>"));
                line(
                    &mut text,
                    &format!(
                        "    <failure message=\"{message}\">{}</failure>",
                        escaped(&case.found)
                    ),
                );
                line(&mut text, "  </testcase>");
            }
        }
        text.push_str("</testsuite>\n");
        text
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// XML 1.0 has no form at all for most control characters, so they become a mark.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(letter),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {
                safe.push('\u{fffd}');
            }
            plain => safe.push(plain),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let case = |name: &str, passed, found: &str| Case {
            part: "bios",
            name: name.to_owned(),
            passed,
            found: found.to_owned(),
            seconds: 1.25,
        };
        Report {
            image: "a.qcow2".to_owned(),
            figures: Figures {
                image_bytes: 3 << 19,
                accelerator: "tcg",
                first_get_seconds: Some(24.04),
                ..Figures::default()
            },
            cases: vec![
                case("put & get", true, "v"),
                case("unit \"x\"", false, "failed <b>\x1b[0m\nsecond"),
            ],
            skipped: vec!["uefi: no firmware".to_owned()],
        }
    }

    #[test]
    fn the_table_tells_verdicts_and_figures() {
        let table = report().table();
        assert!(table.contains("ok    bios    put & get"), "{table}");
        assert!(table.contains("FAIL  bios    unit \"x\""), "{table}");
        assert!(table.contains("      second"), "{table}");
        assert!(table.contains("skip  uefi: no firmware"), "{table}");
        assert!(table.contains("1.5 MiB"), "{table}");
        assert!(table.contains("24.0 s by BIOS"), "{table}");
        assert!(table.contains("never after a reboot"), "{table}");
        assert!(
            table.ends_with("1 passed, 1 failed, 1 skipped\n"),
            "{table}"
        );
    }

    #[test]
    fn junit_is_xml_whatever_a_guest_printed() {
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuite name=\"image a.qcow2\" tests=\"2\" failures=\"1\" time=\"2.500\">\n\
            \x20 <testcase classname=\"image.bios\" name=\"put &amp; get\" time=\"1.250\"/>\n\
            \x20 <testcase classname=\"image.bios\" name=\"unit &quot;x&quot;\" time=\"1.250\">\n\
            \x20   <failure message=\"failed &lt;b&gt;\u{fffd}[0m\">failed &lt;b&gt;\u{fffd}[0m\nsecond</failure>\n\
            \x20 </testcase>\n</testsuite>\n";
        assert_eq!(report().junit(), expected);
    }

    #[test]
    fn json_has_the_figures_and_the_cases() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).expect("it is JSON");
        assert_eq!(json["figures"]["first_get_seconds"], 24.04);
        assert_eq!(json["cases"][1]["passed"], false);
    }
}
