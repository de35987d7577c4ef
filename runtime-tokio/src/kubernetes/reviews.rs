//! Questions about tokens and rights, which the API server answers: TokenReview and SubjectAccessReview.
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use proto_core::auth::Secret;

use super::{Client, Error, Kind, Why};

/// Somebody waits for the answer, who is told after so long that there is none.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(4);

/// Whom a token proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user's name.
    pub name: String,
    /// What tells users of one name apart.
    pub uid: String,
    /// Groups that RBAC may name.
    pub groups: Vec<String>,
    /// What else is known: for a Pod's token, the Pod and its node.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Client {
    /// Whom this token proves, if it is good and made for `audience`; without one, for the API server itself.
    pub async fn review_token(
        &self,
        token: &Secret,
        audience: Option<&str>,
    ) -> Result<Option<Subject>, Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                token: Some(token.expose().to_owned()),
            },
            ..TokenReview::default()
        };
        let status = self.ask_in_time(&review).await?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            tracing::debug!(error = status.error, "Kubernetes does not know a token");
            return Ok(None);
        }
        // An API server that knows nothing of audiences names none, and has checked none.
        let is_meant = audience.is_none_or(|audience| {
            let named = status.audiences.iter().flatten();
            named.into_iter().any(|named| named == audience)
        });
        let user = status.user.unwrap_or_default();
        Ok(is_meant.then(|| Subject {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    /// Whether RBAC, or whatever else decides there, lets somebody `get nodes/tunnel` of a node.
    pub async fn may_reach(&self, subject: &Subject, node: &str) -> Result<bool, Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(subject.name.clone()),
                uid: Some(subject.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(subject.groups.clone()),
                extra: Some(subject.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("get".into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some("tunnel".into()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let status = self.ask_in_time(&review).await?.status;
        Ok(status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    async fn ask_in_time<K: Kind>(&self, review: &K) -> Result<K, Error> {
        let objects = self.everywhere::<K>();
        match tokio::time::timeout(REVIEW_TIMEOUT, objects.create(review)).await {
            Ok(answer) => answer,
            Err(_) => Err(objects.error("create", Why::Silent(REVIEW_TIMEOUT))),
        }
    }
}
